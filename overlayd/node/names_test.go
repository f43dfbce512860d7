package node

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"gridappliance/overlayd/control"
	"gridappliance/overlayd/names"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/vnet"
)

// hostOfStation is a machine as its names stand for it.
func hostOfStation(x *station) names.Host {
	return names.Host{Address: x.address(), Address6: vnet.Address6("archer", x.id)}
}

// TestNamesFromTheStore asks one machine's resolver about itself and others.
func TestNamesFromTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		fa, _ := s.holder("alice")
		fa.Config.Network.Hostname = "alices-pc"
		fb, _ := s.holder("bob")
		master := s.boot(s.master(0)).running()
		a, b := s.boot(fa).running(), s.boot(fb).running()
		pass(5 * time.Second)
		if diff := cmp.Diff([]string{"alices-pc.ipop"}, a.Status().HostNames); diff != "" {
			t.Errorf("alice's host names (-want +got):\n%s", diff)
		}

		ctx := t.Context()
		for _, asked := range []*station{master, a, b} {
			r := resolver{asked.Node}
			for label, want := range map[string]*station{
				"c250000002": master, "master-1": master, "alices-pc": a,
				labelOf(a): a, labelOf(b): b,
			} {
				if got, err := r.Host(ctx, label); err != nil || got != hostOfStation(want) {
					t.Errorf("%s asked for %s: %+v, %v; want %+v", asked.at, label, got, err, hostOfStation(want))
				}
			}
			for _, want := range []*station{master, a, b} {
				host := hostOfStation(want)
				if got, err := r.HostOf(ctx, host.Address6); err != nil || got != host {
					t.Errorf("%s asked for %s: %+v, %v; want %+v", asked.at, host.Address6, got, err, host)
				}
				if who, err := asked.Whois(ctx, control.Target{NodeID: want.id}); err != nil || who.Address != host.Address || who.User == "" {
					t.Errorf("%s: whois %s: %+v, %v", asked.at, want.id, who, err)
				}
			}
			if got, err := r.Host(ctx, "nobody"); !errors.Is(err, names.ErrNotFound) {
				t.Errorf("%s asked for nobody: %+v, %v", asked.at, got, err)
			}
			if got, err := r.HostOf(ctx, vnet.Address6("archer", nodeid.ID{1})); !errors.Is(err, names.ErrNotFound) {
				t.Errorf("%s asked for nobody's address: %+v, %v", asked.at, got, err)
			}
		}
	})
}

func labelOf(x *station) string {
	name := control.HostName(x.address())
	return "c" + name[1:len(name)-len(control.Domain)]
}

// TestServicesNameTheirOwners has an offer of a leased machine and one of a
// master.
func TestServicesNameTheirOwners(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		fa, _ := s.holder("alice")
		fb, _ := s.holder("bob")
		master := s.boot(s.master(0)).running()
		a, b := s.boot(fa).running(), s.boot(fb).running()
		pass(5 * time.Second)
		web := control.RecordName{Kind: "service", Name: "web"}
		for _, x := range []*station{master, a} {
			if _, err := x.Put(t.Context(), web, []byte("tcp 80"), 0); err != nil {
				t.Fatal(err)
			}
		}
		pass(time.Second)
		got, err := resolver{b.Node}.Services(t.Context(), "web")
		want := []names.Offer{{Host: hostOfStation(master), Value: []byte("tcp 80")}, {Host: hostOfStation(a), Value: []byte("tcp 80")}}
		sort := cmpopts.SortSlices(func(x, y names.Offer) bool { return x.Host.Address.Less(y.Host.Address) })
		if diff := cmp.Diff(want, got, sort, cmpopts.EquateComparable(names.Host{})); err != nil || diff != "" {
			t.Errorf("offers of web: %v (-want +got):\n%s", err, diff)
		}
		if got, err := (resolver{b.Node}).Services(t.Context(), "nothing"); err != nil || len(got) != 0 {
			t.Errorf("offers of nothing: %+v, %v", got, err)
		}
	})
}

// TestNotKnownIsNotNobody: without the overlay a machine knows its own name,
// and says of no other that it does not exist.
func TestNotKnownIsNotNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		f, _ := s.holder("alice")
		alone := s.boot(f) // the master is off
		pass(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		got, err := resolver{alone.Node}.Host(ctx, "master-1")
		if err == nil || errors.Is(err, names.ErrNotFound) {
			t.Errorf("without the overlay: %+v, %v; want an error that says nothing of the name", got, err)
		}
		if offers, err := (resolver{alone.Node}).Services(ctx, "web"); err == nil {
			t.Errorf("without the overlay nobody offers web: %+v", offers)
		}
	})
}
