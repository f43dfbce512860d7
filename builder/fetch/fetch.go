// Package fetch brings one file from a server or a folder and checks it: bases
// and modules come this way.
//
// go-getter does the work, with two getters only: http (and https) and plain
// files. Nothing is unpacked, no symbolic link is followed or made, no header
// of the server leads to another kind of source, a redirect stays with its
// scheme, and a file has at most the bytes that its caller allows. The SHA-256
// is required, so whoever serves the file need not be trusted.
//
// A connection that is cut is taken up where it ended, if the server can do
// that (RFC 9110 §14), as long as each attempt brings more. What fails leaves
// nothing behind.
package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	getter "github.com/hashicorp/go-getter/v2"
)

const (
	patience = 30 * time.Minute // for one connection
	attempts = 10               // at one file
)

// File brings from, a URL or a path, to the file to, which has at most limit
// bytes and this SHA-256 (hex). What is read is also written to progress.
func File(ctx context.Context, from, sha256, to string, limit int64, progress io.Writer) error {
	var had int64
	err := get(ctx, from, sha256, to, limit, progress)
	for n := 1; err != nil && n < attempts && cut(ctx, err); n++ {
		info, statErr := os.Stat(to)
		if statErr != nil || info.Size() <= had {
			break
		}
		had = info.Size()
		err = get(ctx, from, sha256, to, limit, progress)
	}
	if info, statErr := os.Stat(to); err == nil && statErr == nil && info.Size() > limit {
		err = tooLarge(limit)
	}
	if err != nil {
		os.Remove(to)
		return fmt.Errorf("fetch %s: %w", from, err)
	}
	return nil
}

// cut says whether an error is that of a connection that ended early.
func cut(ctx context.Context, err error) bool {
	var network net.Error
	return ctx.Err() == nil && (errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &network))
}

func get(ctx context.Context, from, sha256, to string, limit int64, progress io.Writer) error {
	client := &getter.Client{
		Getters: []getter.Getter{
			&getter.HttpGetter{Client: &http.Client{Timeout: patience, CheckRedirect: sameScheme}, XTerraformGetDisabled: true},
			&getter.FileGetter{},
		},
		Decompressors:   map[string]getter.Decompressor{},
		DisableSymlinks: true,
	}
	wd, err := os.Getwd()
	if err != nil {
		return err
	}
	_, err = client.Get(ctx, &getter.Request{
		Src: from + "?checksum=sha256:" + sha256 + "&archive=false", Dst: to, Pwd: wd, GetMode: getter.ModeFile, Copy: true,
		ProgressListener: tracker{progress, limit},
	})
	return err
}

func sameScheme(r *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return errors.New("more than 10 redirects")
	}
	if r.URL.Scheme != via[0].URL.Scheme {
		return fmt.Errorf("redirected from %s to %s", via[0].URL.Scheme, r.URL.Scheme)
	}
	return nil
}

// tracker passes on what go-getter reads, up to limit bytes of a file: with a
// listener, go-getter (2.2.5) itself does not keep to its MaxBytes.
type tracker struct {
	w     io.Writer
	limit int64
}

func (t tracker) TrackProgress(_ string, had, _ int64, stream io.ReadCloser) io.ReadCloser {
	return &limited{Closer: stream, r: io.TeeReader(stream, t.w), left: t.limit - had, limit: t.limit}
}

// limited fails where io.LimitReader would end.
type limited struct {
	io.Closer
	r           io.Reader
	left, limit int64
}

func (l *limited) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return 0, tooLarge(l.limit)
	}
	return n, err
}

func tooLarge(limit int64) error { return fmt.Errorf("it has more than the %d bytes allowed", limit) }
