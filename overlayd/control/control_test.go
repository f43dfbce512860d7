package control

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
)

var update = flag.Bool("update", false, "rewrite golden files")

var (
	ownAddress = netip.MustParseAddr("10.250.0.2")
	morning    = time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)
	compareIP  = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})
)

func running() Status {
	return Status{
		State: StateRunning, Version: "test", Grid: "archer", Namespace: "archer",
		NodeID: "0102030405060708090a0b0c0d0e0f10", Role: "master", User: "master-1", Group: "infra",
		Device: "tapipop", Address: netip.PrefixFrom(ownAddress, 16), Name: HostName(ownAddress),
		Since: morning, Masters: []Master{{Name: HostName(ownAddress), Address: ownAddress}}, Descr: 1,
		Cert: Certificate{Serial: "2a", NotBefore: morning, NotAfter: morning.Add(24 * time.Hour)},
	}
}

func owner() Whois {
	return Whois{Address: ownAddress, Name: HostName(ownAddress), NodeID: "0102", User: "master-1", Group: "infra", Role: "master"}
}

// backend knows one address.
type backend struct{}

func (backend) Counters() map[string]uint64 { return map[string]uint64{"drop/no-session": 3} }

func (backend) Whois(_ context.Context, a netip.Addr) (Whois, error) {
	if a != ownAddress {
		return Whois{}, ErrUnknown
	}
	return owner(), nil
}

// serve runs a server with status first and returns it with a client.
func serve(t *testing.T, first Status) (*Server, *Client, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "control.sock")
	ln, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(backend{}, first)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return s, Dial(path), path
}

func TestGolden(t *testing.T) {
	full := running()
	full.Counters = backend{}.Counters()
	for name, v := range map[string]any{
		"status-running": full,
		"status-joining": Status{State: StateJoining, Reason: "no overlay peers", Version: "test", Grid: "archer", Role: "worker", Masters: []Master{}},
		"whois":          owner(),
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
	_, c, _ := serve(t, running())
	got, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := running()
	want.Counters = backend{}.Counters()
	if diff := cmp.Diff(want, got, compareIP); diff != "" {
		t.Errorf("Status (-want +got):\n%s", diff)
	}

	who, err := c.Whois(t.Context(), ownAddress)
	if err != nil || who != owner() {
		t.Errorf("Whois(%s) = %+v, %v", ownAddress, who, err)
	}
	if _, err := c.Whois(t.Context(), netip.MustParseAddr("10.250.0.3")); !errors.Is(err, ErrUnknown) {
		t.Errorf("Whois of a stranger: %v, want ErrUnknown", err)
	}
	if _, err := c.Whois(t.Context(), netip.Addr{}); err == nil || errors.Is(err, ErrUnknown) {
		t.Errorf("Whois of no address: %v, want another error", err)
	}
}

func TestWatchFollowsChanges(t *testing.T) {
	joining := Status{State: StateJoining, Reason: "no overlay peers", Masters: []Master{}}
	s, c, _ := serve(t, joining)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var states []State
	for status, err := range c.Watch(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		states = append(states, status.State)
		switch status.State {
		case StateJoining:
			s.Publish(joining) // the same: no line
			s.Publish(running())
		case StateRunning:
			stopping := running()
			stopping.State = StateStopping
			s.Publish(stopping)
		}
		if status.State == StateStopping {
			break
		}
	}
	if diff := cmp.Diff([]State{StateJoining, StateRunning, StateStopping}, states); diff != "" {
		t.Errorf("states (-want +got):\n%s", diff)
	}
}

func TestWatchEndsWithTheDaemon(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ln, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- NewServer(backend{}, running()).Serve(ctx, ln) }()
	var last error
	for status, err := range Dial(path).Watch(t.Context()) {
		last = err
		if status.State == StateRunning {
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
	ln, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- NewServer(backend{}, running()).Serve(ctx, ln) }()
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
		_, _, path := serve(t, running())
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := info.Mode(), fs.ModeSocket|0o660; got != want {
			t.Errorf("mode %v, want %v", got, want)
		}
	})
	t.Run("second daemon", func(t *testing.T) {
		_, c, path := serve(t, running())
		if _, err := Listen(path); !errors.Is(err, syscall.EADDRINUSE) {
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
		if _, err := Dial(path).Status(t.Context()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("before: %v, want ECONNREFUSED", err)
		}
		ln, err := Listen(path)
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
		if _, err := Listen(path); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("Listen over a file: %v, want EADDRINUSE", err)
		}
		if got, _ := os.ReadFile(path); !bytes.Equal(got, []byte("keep")) {
			t.Errorf("the file now holds %q", got)
		}
	})
}

func TestNoDaemon(t *testing.T) {
	c := Dial(filepath.Join(t.TempDir(), "none"))
	if _, err := c.Status(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Status: %v, want ErrNotExist", err)
	}
	for _, err := range c.Watch(t.Context()) {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Watch: %v, want ErrNotExist", err)
		}
	}
}
