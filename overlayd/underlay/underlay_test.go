package underlay

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	"gridappliance/internal/netlab"
)

func prefixes(texts ...string) (out []netip.Prefix) {
	for _, s := range texts {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// TestLookAndWatch changes a machine's network step by step: each change is
// told within a second, and what is seen then is what there is.
func TestLookAndWatch(t *testing.T) {
	lab := netlab.New(t)
	lan, wan := lab.Switch("lan"), lab.Switch("wan")
	pc := lab.Node("pc")
	first := lan.Plug(pc, "192.168.1.10/24")
	second := wan.Plug(pc, "198.51.100.7/24").Default("198.51.100.1")
	own := lab.Switch("overlay").Plug(pc, "10.250.0.2/16")

	ctx, cancel := context.WithCancel(t.Context())
	changes := make(chan struct{}, 100)
	var wait func()
	pc.Do(func() {
		var err error
		if wait, err = Watch(ctx, func() { changes <- struct{}{} }); err != nil {
			t.Fatal(err)
		}
	})
	look := func() (s State) {
		t.Helper()
		pc.Do(func() {
			var err error
			if s, err = Look(own.Name()); err != nil {
				t.Fatal(err)
			}
		})
		return s
	}
	s := look()
	for len(changes) > 0 {
		<-changes
	}
	if want := prefixes("198.51.100.7/24", "192.168.1.10/24"); !slices.Equal(s.Addresses, want) {
		t.Errorf("addresses %v, want %v: those with a default route first, not the own device's", s.Addresses, want)
	}
	if len(s.Gateways) != 1 || s.Gateways[0].Via != netip.MustParseAddr("198.51.100.1") || s.Gateways[0].Interface != second.Name() ||
		s.Gateways[0].Source != netip.MustParseAddr("198.51.100.7") {
		t.Errorf("%+v", s.Gateways)
	}
	if len(s.Interfaces) != 2 || !s.Interfaces[0].Multicast {
		t.Errorf("%+v", s.Interfaces)
	}
	if got := s.Host(netip.MustParseAddrPort("[::]:4242")); len(got) != 2 || got[0] != netip.MustParseAddrPort("198.51.100.7:4242") {
		t.Error(got)
	}
	if got := s.Host(netip.MustParseAddrPort("192.168.1.10:4242")); len(got) != 1 {
		t.Error(got)
	}
	if got := s.Attached(); !slices.Equal(got, prefixes("198.51.100.0/24", "192.168.1.0/24")) {
		t.Error(got)
	}
	for _, step := range []struct {
		name string
		run  [][]string
		want []netip.Prefix
		via  string
	}{
		{"another address", [][]string{{"ip", "addr", "add", "192.168.7.10/24", "dev", first.Name()}}, prefixes("198.51.100.7/24", "192.168.1.10/24", "192.168.7.10/24"), "198.51.100.1"},
		{"IPv6", [][]string{{"ip", "addr", "add", "2001:db8::7/64", "dev", second.Name(), "nodad"}}, prefixes("198.51.100.7/24", "2001:db8::7/64", "192.168.1.10/24", "192.168.7.10/24"), "198.51.100.1"},
		{"deprecated IPv6", [][]string{{"ip", "addr", "change", "2001:db8::7/64", "dev", second.Name(), "preferred_lft", "0"}}, prefixes("198.51.100.7/24", "192.168.1.10/24", "192.168.7.10/24"), "198.51.100.1"},
		{"the way out is another", [][]string{{"ip", "route", "replace", "default", "via", "192.168.1.1"}}, prefixes("192.168.1.10/24", "192.168.7.10/24", "198.51.100.7/24"), "192.168.1.1"},
		{"an interface goes down", [][]string{{"ip", "link", "set", second.Name(), "down"}}, prefixes("192.168.1.10/24", "192.168.7.10/24"), "192.168.1.1"},
	} {
		before := look()
		began := time.Now()
		for _, argv := range step.run {
			pc.Run(argv...)
		}
		select {
		case <-changes:
			if took := time.Since(began); took > time.Second+500*time.Millisecond {
				t.Errorf("%s: told after %v", step.name, took)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("%s: not told", step.name)
		}
		s := look()
		if !slices.Equal(s.Addresses, step.want) || len(s.Gateways) != 1 || s.Gateways[0].Via != netip.MustParseAddr(step.via) {
			t.Errorf("%s: %v by %+v, want %v", step.name, s.Addresses, s.Gateways, step.want)
		}
		if s.Equal(before) || !s.Equal(look()) {
			t.Errorf("%s: compares wrongly", step.name)
		}
		for len(changes) > 0 {
			<-changes
		}
	}
	cancel()
	wait()
}
