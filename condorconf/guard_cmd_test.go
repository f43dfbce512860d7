package main

import (
	"context"
	"io"
	"log/slog"
	"net/netip"
	"path/filepath"
	"testing"

	"gridappliance/condorconf/guard"
	"gridappliance/overlayd/control"
)

// oneMaster is a virtual network of this machine, its master, and one that is
// refused.
type oneMaster struct{}

func (oneMaster) Status(context.Context) (control.Status, error) {
	return control.Status{Name: "C250000007.ipop", Barred: []netip.Addr{netip.MustParseAddr("10.250.0.19")},
		Masters: []control.Master{{Name: "C250000002.ipop", Address: netip.MustParseAddr("10.250.0.2")}}}, nil
}

func (oneMaster) Whois(context.Context, netip.Addr) (control.Whois, error) {
	return control.Whois{}, control.ErrUnknown
}

func (oneMaster) Ping(context.Context, control.Target) (control.Pong, error) {
	return control.Pong{Path: control.PathDirect, RTT: 23_400_000}, nil
}

// TestView: what startd takes into the ads of its slots, part by part.
func TestView(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	ln, err := guard.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served, ended := make(chan error, 1), make(chan int, 1)
	s := guard.Service{Overlay: oneMaster{}, Log: slog.New(slog.DiscardHandler)}
	go func() { served <- s.Run(ctx, ln) }()
	read, write := io.Pipe()
	go func() { ended <- run(ctx, []string{"view", "--socket", socket}, nil, write, io.Discard) }()
	const want = "GridPath = \"direct\"\nGridRTTms = 23.4\nGridBarred = \"C250000019.ipop\"\nGridRefused = \"\"\n-\n"
	got := make([]byte, len(want))
	if _, err := io.ReadFull(read, got); err != nil || string(got) != want {
		t.Errorf("view says %q, %v, want %q", got, err, want)
	}
	cancel()
	if code := <-ended; code != 0 {
		t.Errorf("view ends with %d", code)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}
