package fetch

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// content is what is served: 300,000 bytes, always the same.
func content() (data []byte, sum string) {
	data = make([]byte, 300_000)
	rand.New(rand.NewSource(1)).Read(data)
	return data, fmt.Sprintf("%x", sha256.Sum256(data))
}

// fetched brings url and returns what is at its place, nil where nothing is,
// and how many bytes were reported.
func fetched(t *testing.T, url, sum string, limit int64) (data []byte, reported int, err error) {
	t.Helper()
	to := filepath.Join(t.TempDir(), "file")
	var seen bytes.Buffer
	err = File(t.Context(), url, sum, to, limit, &seen)
	data, _ = os.ReadFile(to)
	return data, seen.Len(), err
}

// cutting serves data with ranges and cuts each connection after n bytes.
func cutting(data []byte, n int, ranges bool, gets *atomic.Int32) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		rest, status := data, http.StatusOK
		if ranges {
			w.Header().Set("Accept-Ranges", "bytes")
			var from int
			if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); err == nil && from <= len(data) {
				rest, status = data[from:], http.StatusPartialContent
			}
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(rest)))
		w.WriteHeader(status)
		if r.Method == http.MethodHead {
			return
		}
		gets.Add(1)
		w.Write(rest[:min(n, len(rest))])
		if n < len(rest) {
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
	}
}

func TestFile(t *testing.T) {
	data, sum := content()
	serve := func(h http.HandlerFunc) string {
		s := httptest.NewServer(h)
		t.Cleanup(s.Close)
		return s.URL + "/file.tar.gz" // a name of an archive, which must not be unpacked
	}
	var none atomic.Int32
	whole := serve(cutting(data, len(data), true, &none))
	local := filepath.Join(t.TempDir(), "local")
	if err := os.WriteFile(local, data, 0o644); err != nil {
		t.Fatal(err)
	}
	redirect := func(to string) string {
		return serve(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) })
	}
	endless := serve(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			io.Copy(w, neverEnding{}) // no Content-Length
		}
	})
	header := serve(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Terraform-Get", "file://"+local)
		w.Write([]byte("another file"))
	})
	wrong := strings.Repeat("0", 64)
	limit := int64(len(data))
	for _, tt := range []struct {
		name, url, sum string
		limit          int64
		want           string // of the error; "" is none
	}{
		{"whole", whole, sum, limit, ""},
		{"a path", local, sum, limit, ""},
		{"a redirect", redirect(whole), sum, limit, ""},
		{"wrong checksum", whole, wrong, limit, "Checksums did not match"},
		{"a path, wrong checksum", local, wrong, limit, "Checksums did not match"},
		{"too large", whole, sum, limit - 1, "more than the 299999 bytes allowed"},
		{"a path, too large", local, sum, limit - 1, "more than the 299999 bytes allowed"},
		{"endless", endless, sum, limit, "more than the 300000 bytes allowed"},
		{"not there", serve(http.NotFound), sum, limit, "404"},
		{"a redirect to a file", redirect("file://" + local), sum, limit, "redirected from http to file"},
		{"a header that leads to a file", header, sum, limit, "Checksums did not match"},
		{"redirects without end", redirect("/file.tar.gz"), sum, limit, "more than 10 redirects"},
		{"nobody listens", "http://127.0.0.1:1/x", sum, limit, "refused"},
		{"another scheme", "git::" + whole, sum, limit, "error downloading"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, reported, err := fetched(t, tt.url, tt.sum, tt.limit)
			if tt.want == "" {
				if err != nil || !bytes.Equal(got, data) || tt.url != local && reported != len(data) {
					t.Errorf("%d bytes, %d reported, %v", len(got), reported, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "fetch "+tt.url+": ") {
				t.Errorf("error %v", err)
			}
			if got != nil {
				t.Errorf("%d bytes are left", len(got))
			}
		})
	}
}

type neverEnding struct{}

func (neverEnding) Read(p []byte) (int, error) { return len(p), nil }

// TestResume: what came before a connection was cut is not sent again by a
// server that can go on; a server that cannot is not asked for ever.
func TestResume(t *testing.T) {
	data, sum := content()
	for _, tt := range []struct {
		name   string
		each   int
		ranges bool
		gets   int32
		works  bool
	}{
		{"three pieces", 120_000, true, 3, true},
		{"one byte short", len(data) - 1, true, 2, true},
		{"too many pieces", 1000, true, attempts, false},
		{"cut at once", 0, true, 1, false},
		{"a server without ranges", 120_000, false, 2, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var gets atomic.Int32
			s := httptest.NewServer(cutting(data, tt.each, tt.ranges, &gets))
			defer s.Close()
			got, reported, err := fetched(t, s.URL+"/file", sum, int64(len(data)))
			if gets.Load() != tt.gets {
				t.Errorf("asked %d times, want %d", gets.Load(), tt.gets)
			}
			if tt.works && (err != nil || !bytes.Equal(got, data) || reported != len(data)) {
				t.Errorf("%d bytes, %d reported, %v", len(got), reported, err)
			}
			if !tt.works && (err == nil || got != nil) {
				t.Errorf("%d bytes are left, %v", len(got), err)
			}
		})
	}
}

// TestCancelled: an interrupt ends it at once and leaves nothing.
func TestCancelled(t *testing.T) {
	data, sum := content()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			w.Write(data[:1000])
			w.(http.Flusher).Flush()
			cancel()
			<-done
		}
	}))
	defer s.Close()
	defer close(done)
	to, began := filepath.Join(t.TempDir(), "file"), time.Now()
	if err := File(ctx, s.URL+"/file", sum, to, int64(len(data)), io.Discard); err == nil || time.Since(began) > 10*time.Second {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
	if _, err := os.Stat(to); err == nil {
		t.Error("a part is left")
	}
}
