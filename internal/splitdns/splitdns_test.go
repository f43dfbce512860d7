package splitdns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

var ipop = Link{Device: "tapipop", Servers: []netip.Addr{netip.MustParseAddr("10.250.0.2")}, Search: []string{"ipop"}, Route: []string{"250.10.in-addr.arpa"}}

func TestMeaning(t *testing.T) {
	for name, want := range map[string]error{
		"org.freedesktop.DBus.Error.AccessDenied":                     fs.ErrPermission,
		"org.freedesktop.DBus.Error.InteractiveAuthorizationRequired": fs.ErrPermission,
		"org.freedesktop.resolve1.LinkBusy":                           ErrManaged,
		"org.freedesktop.resolve1.NoSuchLink":                         fs.ErrNotExist,
		"org.freedesktop.DBus.Error.ServiceUnknown":                   ErrAbsent,
	} {
		if err := meaning(dbus.Error{Name: name}); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	other := dbus.Error{Name: "org.freedesktop.DBus.Error.Failed"}
	if err := meaning(other); err == nil || settled(err) {
		t.Errorf("another error: %v", err)
	}
	if meaning(nil) != nil {
		t.Error("no error has a meaning")
	}
}

func TestSay(t *testing.T) {
	for want, err := range map[string]error{
		"systemd-resolved asks 10.250.0.2 about .ipop":   nil,
		"does not run here":                              ErrAbsent,
		"lets only root change it":                       fmt.Errorf("x: %w", fs.ErrPermission),
		"serves another network namespace":               ErrElsewhere,
		"tapipop belongs to systemd-networkd":            ErrManaged,
		"names other servers and is left alone":          errForeign,
		"leads past systemd-resolved and is left alone":  errUplink,
		"does not ask 10.250.0.2 about .ipop: no answer": errors.New("no answer"),
	} {
		if got := say(ipop, err); !strings.Contains(got, want) {
			t.Errorf("%v: %q, want %q", err, got, want)
		}
	}
}

// TestWithoutABus has no system bus to reach: it is told once, and the end
// waits for nothing.
func TestWithoutABus(t *testing.T) {
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+t.TempDir()+"/none")
	ctx, cancel := context.WithCancel(t.Context())
	lines := make(chan string, 10)
	done := make(chan struct{})
	go func() {
		defer close(done)
		Keep(ctx, ipop, func(line string) { lines <- line })
	}()
	if line := <-lines; !strings.Contains(line, "does not run here") {
		t.Errorf("told %q", line)
	}
	cancel()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("Keep does not end")
	}
	if len(lines) != 0 {
		t.Errorf("told again: %q", <-lines)
	}
}

func TestEqualWhateverTheOrder(t *testing.T) {
	a, b := ipop, ipop
	a.Route, b.Route = []string{"x", "y"}, []string{"y", "x"}
	if !a.equal(b) {
		t.Error("the order of domains tells links apart")
	}
	b.Search, b.Route = b.Route, b.Search
	if a.equal(b) {
		t.Error("search and routing domains are taken for one another")
	}
}
