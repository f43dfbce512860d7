package control_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"gridappliance/overlayd/control"
	"gridappliance/overlayd/control/controltest"
)

var update = flag.Bool("update", false, "rewrite golden files")

var compareIP = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}, netip.AddrPort{})

// serve runs a server with status first and returns it with a client.
func serve(t *testing.T, first control.Status) (*control.Server, *control.Client, string) {
	t.Helper()
	return serveBackend(t, &controltest.Node{}, first)
}

// serveNode runs a server for b and returns a client.
func serveNode(t *testing.T, b control.Backend) *control.Client {
	t.Helper()
	_, c, _ := serveBackend(t, b, controltest.Status())
	return c
}

func serveBackend(t *testing.T, b control.Backend, first control.Status) (*control.Server, *control.Client, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "control.sock")
	ln, err := control.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	s := control.NewServer(b, first)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return s, control.Dial(path), path
}

func TestGolden(t *testing.T) {
	n, ctx := &controltest.Node{}, t.Context()
	full := controltest.Status()
	full.Live = n.Live()
	must := func(v any, err error) any {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	worker := control.Target{Address: controltest.Worker.Address}
	for name, v := range map[string]any{
		"status-running": full,
		"status-joining": control.Status{State: control.StateJoining, Reason: "no overlay peers", Version: "test", Grid: "archer", Role: "worker", Masters: []control.Master{}},
		"whois":          controltest.Self,
		"peers":          must(n.Peers(ctx)),
		"why":            must(n.Why(ctx, worker)),
		"pong":           must(n.Ping(ctx, worker)),
		"found":          must(n.Lookup(ctx, control.Key{})),
		"records":        must(n.Get(ctx, control.RecordName{Kind: "service", Name: "collector"})),
		"stored":         control.Stored{Copies: 5},
		"crawled":        control.Crawled{NodeID: controltest.Self.NodeID, Hops: 2, Took: control.Millis(20 * time.Millisecond), Consistent: true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := json.MarshalIndent(v, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, '\n')
			path := "testdata/" + name + ".golden"
			if *update {
				if err := os.WriteFile(path, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("JSON changed (-golden +got):\n%s", diff)
			}
		})
	}
}

func TestStatusAndWhois(t *testing.T) {
	_, c, _ := serve(t, controltest.Status())
	got, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := controltest.Status()
	want.Live = (&controltest.Node{}).Live()
	if diff := cmp.Diff(want, got, compareIP); diff != "" {
		t.Errorf("Status (-want +got):\n%s", diff)
	}

	who, err := c.Whois(t.Context(), controltest.Self.Address)
	if err != nil || who != controltest.Self {
		t.Errorf("Whois(%s) = %+v, %v", controltest.Self.Address, who, err)
	}
	if _, err := c.Whois(t.Context(), netip.MustParseAddr("10.250.0.3")); !errors.Is(err, control.ErrUnknown) {
		t.Errorf("Whois of a stranger: %v, want ErrUnknown", err)
	}
	if _, err := c.Whois(t.Context(), netip.Addr{}); err == nil || errors.Is(err, control.ErrUnknown) {
		t.Errorf("Whois of no address: %v, want another error", err)
	}
}

func TestWatchFollowsChanges(t *testing.T) {
	joining := control.Status{State: control.StateJoining, Reason: "no overlay peers", Masters: []control.Master{}}
	s, c, _ := serve(t, joining)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var states []control.State
	for status, err := range c.Watch(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		states = append(states, status.State)
		switch status.State {
		case control.StateJoining:
			s.Publish(joining) // the same: no line
			s.Publish(controltest.Status())
		case control.StateRunning:
			stopping := controltest.Status()
			stopping.State = control.StateStopping
			s.Publish(stopping)
		}
		if status.State == control.StateStopping {
			break
		}
	}
	if diff := cmp.Diff([]control.State{control.StateJoining, control.StateRunning, control.StateStopping}, states); diff != "" {
		t.Errorf("states (-want +got):\n%s", diff)
	}
}

func TestWatchEndsWithTheDaemon(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ln, err := control.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- control.NewServer(&controltest.Node{}, controltest.Status()).Serve(ctx, ln) }()
	var last error
	for status, err := range control.Dial(path).Watch(t.Context()) {
		last = err
		if status.State == control.StateRunning {
			stop()
		}
	}
	if !errors.Is(last, io.EOF) {
		t.Errorf("last element: %v, want io.EOF", last)
	}
	if err := <-ended; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("socket file after Serve: %v, want none", err)
	}
}

func TestStopDoesNotWaitForADeafWatcher(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ln, err := control.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- control.NewServer(&controltest.Node{}, controltest.Status()).Serve(ctx, ln) }()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET /v1/watch HTTP/1.1\r\nHost: x\r\n\r\n")
	conn.Read(make([]byte, 1))
	stop()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("Serve still runs 10 s after its context ended")
	}
}

func TestListen(t *testing.T) {
	t.Run("mode", func(t *testing.T) {
		_, _, path := serve(t, controltest.Status())
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := info.Mode(), fs.ModeSocket|0o660; got != want {
			t.Errorf("mode %v, want %v", got, want)
		}
	})
	t.Run("second daemon", func(t *testing.T) {
		_, c, path := serve(t, controltest.Status())
		if _, err := control.Listen(path); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("second Listen: %v, want EADDRINUSE", err)
		}
		if _, err := c.Status(t.Context()); err != nil {
			t.Errorf("the first no longer answers: %v", err)
		}
	})
	t.Run("stale socket", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "s")
		dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		dead.SetUnlinkOnClose(false)
		dead.Close()
		if _, err := control.Dial(path).Status(t.Context()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("before: %v, want ECONNREFUSED", err)
		}
		ln, err := control.Listen(path)
		if err != nil {
			t.Fatalf("Listen over a stale socket: %v", err)
		}
		ln.Close()
	})
	t.Run("other file", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "s")
		if err := os.WriteFile(path, []byte("keep"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := control.Listen(path); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("Listen over a file: %v, want EADDRINUSE", err)
		}
		if got, _ := os.ReadFile(path); !bytes.Equal(got, []byte("keep")) {
			t.Errorf("the file now holds %q", got)
		}
	})
}

func TestNoDaemon(t *testing.T) {
	c := control.Dial(filepath.Join(t.TempDir(), "none"))
	if _, err := c.Status(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Status: %v, want ErrNotExist", err)
	}
	for _, err := range c.Watch(t.Context()) {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Watch: %v, want ErrNotExist", err)
		}
	}
}
