package discover

import (
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/ipv4"

	"gridappliance/internal/netlab"
	"gridappliance/overlayd/bootstrap"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/underlay"
)

func TestBeaconVector(t *testing.T) {
	b := Beacon{Asks: true, Tag: bootstrap.TagOf([32]byte{1}), ID: nodeid.ID{0xaa, 15: 0xbb},
		Endpoints: []netip.AddrPort{netip.MustParseAddrPort("192.168.1.7:4242"), netip.MustParseAddrPort("[2001:db8::7]:4242")}}.Append(nil)
	const file = "testdata/beacon.hex"
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(file, []byte(hex.EncodeToString(b)+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if hex.EncodeToString(b) != strings.TrimSpace(string(want)) {
		t.Errorf("%x, want %s", b, want)
	}
}

// TestPeersOnALAN puts three nodes of one grid and one of another on a switch,
// and one of the first grid behind a router: those on the switch find each
// other without any name, nobody else.
func TestPeersOnALAN(t *testing.T) {
	lab := netlab.New(t)
	lan, beyond := lab.Switch("lan"), lab.Switch("beyond")
	router := lab.Node("router")
	lan.Plug(router, "192.168.1.1/24")
	beyond.Plug(router, "192.168.2.1/24")
	router.Run("sysctl", "-qw", "net.ipv4.ip_forward=1")
	type machine struct {
		f    *Finder
		last []Found
	}
	machines := map[string]*machine{}
	ctx, cancel := context.WithCancel(t.Context())
	var ended []chan struct{}
	add := func(name string, id byte, grid byte, s *netlab.Switch, address string, more ...string) *netlab.Node {
		n := lab.Node(name)
		p := s.Plug(n, address)
		p.Default(strings.TrimSuffix(netip.MustParsePrefix(address).Masked().Addr().String(), "0") + "1")
		for _, a := range more {
			n.Run("ip", "addr", "add", a, "dev", p.Name(), "nodad")
		}
		f := New(Config{ID: nodeid.ID{id}, Tags: []bootstrap.Tag{bootstrap.TagOf([32]byte{grid})}, Listen: netip.MustParseAddrPort("[::]:4242"), LAN: true,
			Resolver: net.DefaultResolver, Table: &bootstrap.Table{}, Log: slog.New(slog.DiscardHandler)})
		m := &machine{f: f}
		machines[name] = m
		done := make(chan struct{})
		ended = append(ended, done)
		n.Do(func() {
			s, err := underlay.Look("")
			if err != nil {
				t.Fatal(err)
			}
			f.Tell(Network{s})
		})
		go n.Do(func() { defer close(done); f.Run(ctx) })
		return n
	}
	add("a", 1, 1, lan, "192.168.1.10/24", "2001:db8:1::10/64")
	add("b", 2, 1, lan, "192.168.1.11/24")
	add("c", 3, 1, lan, "192.168.1.12/24", "2001:db8:1::12/64")
	add("other", 4, 2, lan, "192.168.1.13/24")
	far := add("far", 5, 1, beyond, "192.168.2.10/24")
	// Beacons that a router has passed, and that say what a neighbour would.
	far.Do(func() {
		c, err := net.Dial("udp4", "192.168.1.10:4244")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := ipv4.NewConn(c).SetTTL(255); err != nil {
			t.Fatal(err)
		}
		lie := Beacon{Asks: true, Tag: bootstrap.TagOf([32]byte{1}), ID: nodeid.ID{9}, Endpoints: []netip.AddrPort{netip.MustParseAddrPort("192.168.1.50:4242")}}
		for range 5 {
			<-time.After(100 * time.Millisecond)
			c.Write(lie.Append(nil))
		}
	})
	deadline := time.After(4 * time.Second)
	for waiting := true; waiting; {
		select {
		case <-deadline:
			waiting = false
		case <-time.After(20 * time.Millisecond):
		}
		for _, m := range machines {
			for more := true; more; {
				select {
				case a := <-m.f.Actions():
					if c, ok := a.(Contacts); ok {
						m.last = c.List
					}
				default:
					more = false
				}
			}
		}
	}
	cancel()
	for _, done := range ended {
		<-done
	}
	for name, want := range map[string][]string{"a": {"2 192.168.1.11:4242", "3 192.168.1.12:4242 [2001:db8:1::12]:4242"},
		"b": {"1 192.168.1.10:4242", "3 192.168.1.12:4242"}, "c": {"1 192.168.1.10:4242 [2001:db8:1::10]:4242", "2 192.168.1.11:4242"}, "other": nil, "far": nil} {
		var got []string
		for _, c := range machines[name].last {
			slices.SortFunc(c.Endpoints, netip.AddrPort.Compare)
			text := fmt.Sprint(c.ID[0])
			for _, e := range c.Endpoints {
				text += " " + e.String()
			}
			if c.Source != FromLAN || c.Where == "" {
				t.Errorf("%s: %+v", name, c)
			}
			got = append(got, text)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s has found %q, want %q", name, got, want)
		}
	}
}

// TestBeaconsThatCountForNothing: another grid's, an own one, endpoints of
// other networks; and a flood is answered within bounds.
func TestBeaconsThatCountForNothing(t *testing.T) {
	f := New(Config{ID: nodeid.ID{1}, Tags: []bootstrap.Tag{tag}, Listen: netip.MustParseAddrPort("[::]:4242"), Table: &bootstrap.Table{}, Log: slog.New(slog.DiscardHandler)})
	f.network = underlay.State{Addresses: []netip.Prefix{netip.MustParsePrefix("192.168.1.7/24")}}
	now := time.Now()
	at := netip.MustParseAddrPort("192.168.1.10:4244")
	near, victim := netip.MustParseAddrPort("192.168.1.10:4242"), netip.MustParseAddrPort("203.0.113.5:53")
	for name, b := range map[string]Beacon{
		"another grid": {Tag: bootstrap.Tag{9}, ID: nodeid.ID{2}, Endpoints: []netip.AddrPort{near}},
		"itself":       {Tag: tag, ID: nodeid.ID{1}, Endpoints: []netip.AddrPort{near}},
		"a victim":     {Tag: tag, ID: nodeid.ID{2}, Endpoints: []netip.AddrPort{victim, netip.MustParseAddrPort("192.168.1.7:4242"), netip.MustParseAddrPort("192.168.1.9:0")}},
	} {
		if f.takeBeacon(now, heard{at, b.Append(nil)}); len(f.beacons.heard) != 0 {
			t.Errorf("%s counts: %+v", name, f.beacons.heard)
		}
	}
	for i := range 1000 {
		f.takeBeacon(now, heard{at, Beacon{Tag: tag, ID: nodeid.ID{3, byte(i), byte(i >> 8)}, Endpoints: []netip.AddrPort{near, victim}}.Append(nil)})
	}
	if n := len(f.beacons.heard); n != perSource || len(f.beacons.heard[0].endpoints) != 1 {
		t.Errorf("%d kept: %+v", n, f.beacons.heard[0])
	}
}
