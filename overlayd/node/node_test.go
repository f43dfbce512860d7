package node

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/pion/stun/v3"

	"gridappliance/floppy"
	"gridappliance/internal/diag"
	"gridappliance/overlayd/control"
	"gridappliance/overlayd/datapath"
	"gridappliance/overlayd/device"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/state"
	"gridappliance/overlayd/vnet"
)

var anyAddr = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

func TestMasterRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, w := newTestGrid(t), newWorld(t)
		n, stop := w.start(w.config(g.master(1)))

		masters := g.grid.Descriptor.Masters
		want := control.Status{
			State: control.StateRunning, Version: "test", Grid: "archer", Namespace: "archer",
			NodeID: masters[1].ID.String(), Role: "master", User: "master-2", Group: "infra",
			Device: "tapipop", Address: netip.PrefixFrom(masters[1].Address, 16), Name: control.HostName(masters[1].Address),
			HostNames: []string{"master-2.ipop"}, Since: time.Now(), Descr: 1, Address6: netip.PrefixFrom(vnet.Address6("archer", nodeid.ID(masters[1].ID)), 64),
		}
		for _, m := range masters {
			want.Masters = append(want.Masters, control.Master{Name: control.HostName(m.Address), Address: m.Address})
		}
		got := n.Status()
		if diff := cmp.Diff(want, got, anyAddr, cmpopts.IgnoreFields(control.Status{}, "Cert", "Live")); diff != "" {
			t.Errorf("status (-want +got):\n%s", diff)
		}

		cfg, up := w.host.Config("tapipop")
		if !up || cfg.Address != want.Address || cfg.MTU != device.DefaultMTU || cfg.HardwareAddr[0]&3 != 2 {
			t.Errorf("device up %v with %+v", up, cfg)
		}

		who, err := n.Whois(t.Context(), control.Target{Address: masters[1].Address})
		if err != nil || who.NodeID != want.NodeID || who.Role != "master" || who.Group != "infra" || who.Router {
			t.Errorf("whois of the own address: %+v, %v", who, err)
		}
		if who, err := n.Whois(t.Context(), control.Target{Address: masters[0].Address}); !errors.Is(err, control.ErrUnknown) {
			t.Errorf("whois of the other master: %+v, %v; want ErrUnknown", who, err)
		}

		if err := stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
		if _, up := w.host.Config("tapipop"); up {
			t.Error("the device is still held after Run")
		}
		if s := n.Status(); s.State != control.StateStopping || s.Address.IsValid() {
			t.Errorf("after Run: state %s with address %v", s.State, s.Address)
		}
		if _, err := n.Whois(t.Context(), control.Target{Address: masters[1].Address}); err == nil {
			t.Error("whois after Run was answered")
		}
	})
}

// TestCertificateIsAlwaysValid samples ten days hour by hour.
func TestCertificateIsAlwaysValid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n, stop := w.start(w.config(newTestGrid(t).worker(90 * 24 * time.Hour)))
		serials := map[string]bool{}
		id := n.Status().NodeID
		for range 10 * 24 {
			s := n.Status()
			now := time.Now()
			if now.Before(s.Cert.NotBefore) || !now.Before(s.Cert.NotAfter) {
				t.Fatalf("%v: certificate valid from %v to %v", now, s.Cert.NotBefore, s.Cert.NotAfter)
			}
			if left, half := s.Cert.NotAfter.Sub(now), 11*time.Hour; left < half {
				t.Fatalf("%v: only %v left, not renewed at half life", now, left)
			}
			if s.NodeID != id {
				t.Fatalf("the node ID changed from %s to %s", id, s.NodeID)
			}
			serials[s.Cert.Serial] = true
			time.Sleep(time.Hour)
			synctest.Wait()
		}
		if got := len(serials); got < 20 || got > 22 { // every 11.5 h
			t.Errorf("%d certificates in ten days, want 21", got)
		}
		if err := stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func TestNodeEndsWithItsHolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		start := time.Now()
		n, err := New(w.config(newTestGrid(t).worker(30 * time.Hour)))
		if err != nil {
			t.Fatal(err)
		}
		err = n.Run(context.Background())
		if err == nil || !strings.Contains(err.Error(), "renew certificate") {
			t.Errorf("Run: %v, want that the certificate cannot be renewed", err)
		}
		if ran := time.Since(start); ran < 30*time.Hour || ran > 30*time.Hour+2*time.Minute {
			t.Errorf("ran for %v, want until the holder ended after 30 h", ran)
		}
	})
}

func TestWorkerWaitsAndKeepsItsKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, w := newTestGrid(t), newWorld(t)
		id := func() string {
			n, stop := w.start(w.config(g.worker(time.Hour)))
			defer stop()
			s := n.Status()
			if s.State != control.StateJoining || !strings.Contains(s.Reason, "no first contact") || s.Address.IsValid() {
				t.Errorf("state %s, reason %q, address %v", s.State, s.Reason, s.Address)
			}
			if cfg, up := w.host.Config("tapipop"); !up || cfg.Address.IsValid() || !cfg.Address6.IsValid() {
				t.Errorf("device up %v with %v, %v; want IPv6 alone", up, cfg.Address, cfg.Address6)
			}
			return s.NodeID
		}
		first := id()
		if again := id(); again != first {
			t.Errorf("node ID after a restart %s, before %s", again, first)
		}
		w.instance = "machine-2" // the disk was copied
		second := id()
		if second == first {
			t.Error("a copied machine has the same node ID")
		}
		if again := id(); again != second {
			t.Errorf("copied machine: node ID after a restart %s, before %s", again, second)
		}
	})
}

func TestOverlapKeepsTheDeviceDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		inside := device.Route{To: netip.MustParsePrefix("10.250.3.0/24"), Interface: "eth0"}
		w.host.SetRoutes(inside)
		n, stop := w.start(w.config(newTestGrid(t).master(0)))
		defer stop()
		s := n.Status()
		if s.State != control.StateJoining || !strings.Contains(s.Reason, "10.250.3.0/24 on eth0") || !strings.Contains(s.Reason, "--pool") {
			t.Errorf("state %s, reason %q; want joining with route and remedy", s.State, s.Reason)
		}
		if cfg, _ := w.host.Config("tapipop"); cfg.Address.IsValid() {
			t.Errorf("the device has %v", cfg.Address)
		}

		w.host.SetRoutes()
		time.Sleep(absentDelay)
		synctest.Wait()
		if s := n.Status(); s.State != control.StateRunning || s.Reason != "" {
			t.Errorf("once the route is gone: state %s, reason %q; want running", s.State, s.Reason)
		}

		w.host.SetRoutes(inside) // a network that comes later does not take the address away
		time.Sleep(presentDelay)
		synctest.Wait()
		if s := n.Status(); s.State != control.StateRunning || !strings.Contains(s.Reason, "10.250.3.0/24") {
			t.Errorf("when it comes back: state %s, reason %q; want running with the reason", s.State, s.Reason)
		}
	})
}

func TestUnderlay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n, stop := w.start(w.config(newTestGrid(t).worker(time.Hour)))
		defer stop()
		client, err := w.underlay.Listen(netip.MustParseAddrPort("198.51.100.7:5555"))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		request := stun.MustBuild(stun.TransactionID, stun.BindingRequest)
		for _, d := range [][]byte{nil, []byte("hello"), request.Raw[:19], make([]byte, 1400), request.Raw[:20]} {
			client.WriteTo(d, listenAt)
		}
		indication := stun.MustBuild(stun.TransactionID, stun.NewType(stun.MethodBinding, stun.ClassIndication))
		client.WriteTo(indication.Raw, listenAt)
		client.WriteTo(append(slices.Clone(request.Raw), 0), listenAt)
		synctest.Wait()

		b := make([]byte, 1500)
		k, from, err := client.ReadFrom(b)
		if err != nil || from != listenAt {
			t.Fatalf("answer from %s, %v", from, err)
		}
		var answer stun.Message
		var mapped stun.XORMappedAddress
		if err := stun.Decode(b[:k], &answer); err != nil {
			t.Fatal(err)
		}
		if err := mapped.GetFrom(&answer); err != nil || mapped.String() != "198.51.100.7:5555" || answer.TransactionID != request.TransactionID {
			t.Errorf("mapped address %s, %v, transaction %x", mapped, err, answer.TransactionID)
		}
		got := n.Live().Counters
		want := map[string]uint64{
			string(datapath.RxDatagrams): 7, string(datapath.TxDatagrams): 1, countSTUN: 1,
			string(dropForeign): 4, string(dropSTUNOther): 1, string(dropSTUNMalformed): 1,
		}
		maps.DeleteFunc(got, func(name string, k uint64) bool {
			part, _, _ := strings.Cut(name, "/")
			return k == 0 || part != "rx" && part != "tx" && part != "drop"
		})
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("counters (-want +got):\n%s", diff)
		}
	})
}

func TestFramesAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n, stop := w.start(w.config(newTestGrid(t).master(0)))
		defer stop()
		w.host.Send("tapipop", make([]byte, 60))
		w.host.Send("tapipop", make([]byte, 1294))
		w.host.Send("tapipop", make([]byte, 13))
		synctest.Wait()
		got := n.Live().Counters
		if got[string(datapath.RxFrames)] != 3 || got[string(datapath.DropFrameType)] != 2 || got[string(datapath.DropFrameShort)] != 1 {
			t.Errorf("counters %v", got)
		}
	})
}

func TestSecondNodeIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, w := newTestGrid(t), newWorld(t)
		_, stop := w.start(w.config(g.master(0)))
		defer stop()

		n, err := New(w.config(g.master(0)))
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Run(t.Context()); !errors.Is(err, state.ErrRunning) {
			t.Errorf("on the same state: %v, want state.ErrRunning", err)
		}
		cfg := w.config(g.master(1))
		cfg.StateDir, cfg.Listen = t.TempDir(), netip.MustParseAddrPort("192.0.2.1:4243")
		if n, err = New(cfg); err != nil {
			t.Fatal(err)
		}
		if err := n.Run(t.Context()); !errors.Is(err, device.ErrBusy) {
			t.Errorf("on the same device: %v, want ErrBusy", err)
		}
	})
}

func TestNotify(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		cfg := w.config(newTestGrid(t).master(0))
		cfg.Watchdog = 20 * time.Second
		_, stop := w.start(cfg)
		time.Sleep(time.Minute)
		synctest.Wait()
		stop()
		var pings int
		rest := slices.DeleteFunc(w.notified(), func(s string) bool {
			if s == "WATCHDOG=1" {
				pings++
				return true
			}
			return false
		})
		want := []string{"STATUS=starting", "READY=1", "STATUS=running as C250000002.ipop 10.250.0.2/16", "STATUS=stopping", "STOPPING=1"}
		if diff := cmp.Diff(want, rest); diff != "" {
			t.Errorf("notified (-want +got):\n%s", diff)
		}
		if pings != 7 { // at 0, 10, ... 60 s
			t.Errorf("%d WATCHDOG=1 in a minute, want 7", pings)
		}
	})
}

func TestStandaloneIsNoNode(t *testing.T) {
	f, err := floppy.Decode("test.img", []floppy.File{{Name: floppy.ConfigFile, Data: []byte("version = 1\n[machine]\nrole = \"standalone\"\n")}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{Floppy: f}); !errors.Is(err, diag.ErrNothing) {
		t.Errorf("New: %v, want ErrNothing", err)
	}
}

// TestMasterOutsideTheRoster has a master's role and a key the roster does not
// know, as a floppy from before the roster changed.
func TestMasterOutsideTheRoster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, w := newTestGrid(t), newWorld(t)
		f := g.master(0)
		f.NodeKey = g.masters[1].NodeKey // master-1's holder, master-2's key
		n, err := New(w.config(f))
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Run(t.Context()); err == nil {
			t.Error("a master with another master's key ran")
		}
	})
}
