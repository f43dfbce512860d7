package node

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gridappliance/credential"
	"gridappliance/floppy"
	"gridappliance/overlayd/control"
	"gridappliance/overlayd/device"
	"gridappliance/overlayd/transport"
	"gridappliance/overlayd/underlay"
	"gridappliance/overlayd/vnet"
)

// site is whole machines on one underlay, in virtual time: the master, who is
// the only witness and first contact, at 192.0.2.1, and others.
type site struct {
	*testGrid
	underlay transport.Memory
	count    int
}

func newSite(t *testing.T) *site {
	t.Helper()
	g, err := credential.NewGrid(credential.GridOptions{Name: "archer", Masters: 1, Bootstrap: []string{"192.0.2.1:4242"},
		Namespaces: []credential.Namespace{{Name: "archer", LeaseTime: 60, HoldTime: 120}}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return &site{testGrid: &testGrid{t, g, g.Material}}
}

// station is one of them.
type station struct {
	*Node
	t       *testing.T
	host    *device.Memory
	at      netip.AddrPort // on the underlay
	state   string
	stop    func()
	ends    string        // what Run's error is to say; "": none
	copied  chan struct{} // something sent: the machine was
	slept   atomic.Int64  // ns that the machine's clock has gone on and others have not
	stopped atomic.Int64  // ns that its next look at the clock takes

	mu  sync.Mutex
	got map[string]int // packets that reached the machine, by text
}

func (s *site) boot(f *floppy.Floppy) *station {
	s.count++
	return s.bootAt(f, s.count, s.t.TempDir())
}

// bootAt boots the machine 192.0.2.k.
func (s *site) bootAt(f *floppy.Floppy, k int, state string) *station {
	s.t.Helper()
	ip := netip.AddrFrom4([4]byte{192, 0, 2, byte(k)})
	x := &station{t: s.t, host: &device.Memory{}, at: netip.AddrPortFrom(ip, 4242), state: state, got: map[string]int{}, copied: make(chan struct{})}
	w := &world{t: s.t, state: x.state, instance: fmt.Sprintf("machine-%d", k)}
	begun := time.Now().Add(-time.Hour)
	cfg := w.config(f)
	cfg.Listen, cfg.Host, cfg.Underlay = x.at, x.host, &s.underlay
	cfg.Clock = func() time.Duration {
		time.Sleep(time.Duration(x.stopped.Swap(0)))
		return time.Since(begun) + time.Duration(x.slept.Load())
	}
	cfg.Look = func(string) (underlay.State, error) {
		return underlay.State{Addresses: []netip.Prefix{netip.PrefixFrom(ip, 24)}}, nil
	}
	cfg.Generation = func(ctx context.Context, changed func()) error {
		for {
			select {
			case <-x.copied:
				changed()
			case <-ctx.Done():
				return nil
			}
		}
	}
	n, err := New(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	x.Node = n
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	synctest.Wait()
	go x.receive()
	x.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; (err != nil) != (x.ends != "") || err != nil && !strings.Contains(err.Error(), x.ends) {
			s.t.Errorf("%s: %v, want %q", x.at, err, x.ends)
		}
	})
	s.t.Cleanup(x.stop)
	return x
}

// receive counts what reaches the machine until its device is closed.
func (x *station) receive() {
	for {
		frame := x.host.Received("tapipop")
		if frame == nil {
			return
		}
		if p, ok := vnet.Packet(frame); ok && p[0]>>4 == 4 {
			x.mu.Lock()
			x.got[string(p[28:])]++
			x.mu.Unlock()
		}
	}
}

// received returns how often a text has come.
func (x *station) received(text string) int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.got[text]
}

// send makes the machine send a text.
func (x *station) send(to netip.Addr, text string) {
	x.sendFrom(x.Status().Address.Addr(), to, text)
}

func (x *station) sendFrom(from, to netip.Addr, text string) {
	f := make([]byte, 14+28+len(text)) // Ethernet, IPv4, UDP
	f[12], f[13] = 0x08, 0x00
	p := f[14:]
	p[0], p[8], p[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	copy(p[12:], from.AsSlice())
	copy(p[16:], to.AsSlice())
	binary.BigEndian.PutUint16(p[24:], uint16(8+len(text)))
	copy(p[28:], text)
	x.host.Send("tapipop", f)
}

// pass lets virtual time pass.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// running waits until the machine has an address, at most three minutes.
func (x *station) running() *station {
	x.t.Helper()
	for range 180 {
		if x.Status().State == control.StateRunning {
			return x
		}
		pass(time.Second)
	}
	x.t.Fatalf("%s: %+v", x.at, x.Status())
	return nil
}

func (x *station) address() netip.Addr { return x.Status().Address.Addr() }

// path returns how packets to another machine go.
func (x *station) path(to *station) control.Path {
	x.t.Helper()
	peers, err := x.Peers(x.t.Context())
	if err != nil {
		x.t.Fatal(err)
	}
	for _, p := range peers {
		for _, s := range p.Sessions {
			if p.NodeID == to.Status().NodeID && s.Purpose == "archer" {
				return s.Path
			}
		}
	}
	return control.PathNone
}

// holder returns a person's floppy and its serial.
func (s *site) holder(user string) (*floppy.Floppy, string) {
	s.t.Helper()
	cert, key, err := s.grid.IssueHolder(credential.HolderRequest{User: user, Group: "physics", Roles: []credential.Role{credential.RoleWorker}}, time.Now())
	if err != nil {
		s.t.Fatal(err)
	}
	f := s.files("worker", floppy.File{Name: floppy.HolderCertFile, Data: cert}, floppy.File{Name: floppy.HolderKeyFile, Data: key})
	return f, s.grid.Ledger[len(s.grid.Ledger)-1].Serial
}

// three are the master and two workers that talk to each other directly.
func (s *site) three() (master, a, b *station, serialA string) {
	s.t.Helper()
	fa, serialA := s.holder("alice")
	fb, _ := s.holder("bob")
	master = s.boot(s.master(0)).running()
	a, b = s.boot(fa).running(), s.boot(fb).running()
	a.send(b.address(), "first")
	pass(100 * time.Millisecond)
	b.send(a.address(), "back")
	pass(2 * time.Second)
	if a.received("back") != 1 || b.received("first") != 1 || a.path(b) != control.PathDirect || b.path(a) != control.PathDirect {
		s.t.Fatalf("first %d, back %d, paths %s and %s", b.received("first"), a.received("back"), a.path(b), b.path(a))
	}
	return master, a, b, serialA
}

// TestNoPacketIsLost: 1,000 packets a second from before there is a session,
// through every change of path.
func TestNoPacketIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		fa, _ := s.holder("alice")
		fb, _ := s.holder("bob")
		s.boot(s.master(0)).running()
		a, b := s.boot(fa).running(), s.boot(fb).running()
		to, from := b.address(), a.address()
		const packets = 3000
		for i := range packets {
			a.sendFrom(from, to, fmt.Sprint("packet ", i))
			pass(time.Millisecond)
		}
		pass(time.Second)
		for i := range packets {
			if n := b.received(fmt.Sprint("packet ", i)); n != 1 {
				t.Errorf("packet %d came %d times", i, n)
			}
		}
	})
}

// TestEverybodyReachesEverybody: sixteen machines boot at once from one floppy;
// no first packet between any two is lost, and all paths become direct.
func TestEverybodyReachesEverybody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		f, _ := s.holder("alice")
		machines := []*station{s.boot(s.master(0)).running()}
		for range 15 {
			machines = append(machines, s.boot(f))
		}
		began := time.Now()
		taken := map[netip.Addr]bool{}
		for _, x := range machines {
			addr := x.running().address()
			if taken[addr] {
				t.Errorf("%v is leased twice", addr)
			}
			taken[addr] = true
		}
		t.Logf("16 machines have addresses after %v", time.Since(began))
		for _, x := range machines {
			for _, y := range machines {
				if x != y {
					x.send(y.address(), "from "+x.at.String())
				}
			}
		}
		pass(3 * time.Second)
		lost, indirect := 0, 0
		for _, x := range machines {
			for _, y := range machines {
				if x == y {
					continue
				}
				if y.received("from "+x.at.String()) != 1 {
					lost++
				}
				if x.path(y) != control.PathDirect {
					indirect++
				}
			}
		}
		if lost > 0 || indirect > 0 {
			t.Errorf("of 240 first packets %d were lost or doubled; %d paths are not direct; the first machine counts %v", lost, indirect, machines[0].Live().Counters)
		}
	})
}

// TestLeaseEndClosesTheDataPlane: a machine whose clock says that its lease has
// ended, because it slept, neither sends nor receives, before its loop has had
// any chance to notice.
func TestLeaseEndClosesTheDataPlane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		_, a, b, _ := s.three()
		to, from := b.address(), a.address()
		before := a.Live().Counters["drop/lease"]
		a.slept.Store(int64(3 * time.Minute)) // its lease is for two
		a.sendFrom(from, to, "late")
		b.send(from, "to the late")
		synctest.Wait() // no time passes: no timer of a's loop has fired
		if b.received("late") != 0 || a.received("to the late") != 0 {
			t.Errorf("after the lease's end: %d sent, %d delivered", b.received("late"), a.received("to the late"))
		}
		if got := a.counters.snapshot()["drop/lease"] - before; got == 0 {
			t.Error("nothing was counted as too late")
		}

		// It asks the witnesses again, and goes on with its address.
		pass(2 * time.Second)
		if got := a.Status(); !got.Ring.Member || got.State != control.StateRunning {
			t.Errorf("two seconds later: %s, %s, ring %+v", got.State, got.Reason, got.Ring)
		}
		a.running().send(to, "again")
		pass(2 * time.Second)
		if b.received("again") != 1 {
			t.Errorf("after it came back: %d packets; %+v", b.received("again"), a.Status())
		}
	})
}

// TestStoppedWhileReckoning: a process that is stopped just before it looks at
// the clock does not reckon its lease longer for it.
func TestStoppedWhileReckoning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		_, a, _, _ := s.three()
		var want, got time.Duration
		a.inLoop(t.Context(), func(time.Time) {
			want = a.until()
			a.stopped.Store(int64(30 * time.Second))
			got = a.until()
		})
		synctest.Wait()
		pass(time.Minute)
		if want == 0 || got != want {
			t.Errorf("the lease ends at %v of the clock, and at %v after a stop", want, got)
		}
	})
}

// TestCopiedMachine: the sessions of a machine that was put back to an earlier
// moment end before it seals anything, and it is back a moment later.
func TestCopiedMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		_, a, b, _ := s.three()
		to := b.address()
		keys := a.links.Session(b.id, "archer").Keys()
		a.copied <- struct{}{}
		synctest.Wait()
		if keys.Usable(time.Now()) {
			t.Error("keys from before the copy still seal")
		}
		pass(2 * time.Second)
		a.send(to, "again")
		pass(2 * time.Second)
		if b.received("again") != 1 {
			t.Errorf("%d packets after it came back; %+v", b.received("again"), a.Status())
		}
	})
}

// TestCutOffUntilTheLeaseEnds: a node that reaches nobody keeps its address
// until its lease ends, and then has none.
func TestCutOffUntilTheLeaseEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		fa, _ := s.holder("alice")
		s.boot(s.master(0)).running()
		a := s.boot(fa).running()
		pass(time.Second)
		leased := time.Now()
		_, l := a.core.Lease(claimAddress)
		end := l.Until().Sub(leased)
		addr := a.address()
		s.underlay.Lose(func(_, _ netip.AddrPort) bool { return true })
		pass(end - time.Second)
		if got := a.Status(); got.State != control.StateRunning || got.Address.Addr() != addr {
			t.Errorf("a second before the end: %s, %v", got.State, got.Address)
		}
		pass(2 * time.Second)
		if got := a.Status(); got.State != control.StateJoining || got.Address.IsValid() || got.Reason == "" {
			t.Errorf("a second after the end: %s, %v, %q", got.State, got.Address, got.Reason)
		}
		s.underlay.Lose(nil)
		a.running()
		if a.address() != addr {
			t.Errorf("it came back as %v, before %v", a.address(), addr)
		}
	})
}

// TestRevocationEndsSessions: within 10 s of its publishing nobody talks to the
// revoked any more.
func TestRevocationEndsSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		master, a, b, serial := s.three()
		to, from := b.address(), a.address()
		if _, err := s.grid.Revoke([]string{serial}, "stolen", nil, time.Now()); err != nil {
			t.Fatal(err)
		}
		if err := master.Publish(t.Context(), s.grid.Revocations.Text()); err != nil {
			t.Fatal(err)
		}
		published := time.Now()
		for b.path(a) != control.PathNone || master.path(a) != control.PathNone {
			if time.Since(published) > 10*time.Second {
				t.Fatalf("ten seconds after a revocation: b to a %s, master to a %s", b.path(a), master.path(a))
			}
			pass(100 * time.Millisecond)
		}
		t.Logf("sessions ended after %v", time.Since(published))
		a.sendFrom(from, to, "revoked")
		pass(5 * time.Second)
		if b.received("revoked") != 0 {
			t.Error("a revoked node's packet was delivered")
		}
		if v := b.Status().Revoked; v != 1 {
			t.Errorf("b has revocation list %d", v)
		}
	})
}

// TestRevokedNodeEnds: a node that learns that its floppy was revoked carries
// nothing any more, passes the list on, and ends with a reason.
func TestRevokedNodeEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		_, a, b, serial := s.three()
		to, from := b.address(), a.address()
		if _, err := s.grid.Revoke([]string{serial}, "stolen", nil, time.Now()); err != nil {
			t.Fatal(err)
		}
		if err := a.Publish(t.Context(), s.grid.Revocations.Text()); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		a.sendFrom(from, to, "revoked")
		pass(time.Second)
		if b.received("revoked") != 0 {
			t.Error("it still sends")
		}
		if got := a.Status(); !strings.Contains(got.Reason, "revoked") {
			t.Errorf("reason %q", got.Reason)
		}
		if v := b.Status().Revoked; v != 1 {
			t.Errorf("b has revocation list %d", v)
		}
		pass(farewell)
		a.ends = "revoked"
		a.stop()
	})
}

// TestPoolChanges: every node begins anew with a descriptor that gives its
// namespace other addresses, and until then carries nothing.
func TestPoolChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		master, a, b, _ := s.three()
		to, from := b.address(), a.address()
		err := s.grid.Amend(func(d *credential.Descriptor) { d.Namespaces[0].Pool = netip.MustParsePrefix("10.250.0.0/17") }, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if err := master.Publish(t.Context(), s.grid.Descriptor.Text()); err != nil {
			t.Fatal(err)
		}
		pass(5 * time.Second)
		a.sendFrom(from, to, "before")
		pass(time.Second)
		if b.received("before") != 0 {
			t.Error("a packet of the network of before was carried")
		}
		pass(farewell)
		for _, x := range []*station{master, a, b} {
			x.ends = "10.250.0.0/17 now"
			x.stop()
		}
	})
}

// TestFallbackToARelay: when the direct path dies, traffic goes through the
// common neighbour within 2 s, and back when the path works again.
func TestFallbackToARelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		_, a, b, _ := s.three()
		to, from := b.address(), a.address()
		cut := map[netip.AddrPort]bool{a.at: true, b.at: true}
		s.underlay.Lose(func(x, y netip.AddrPort) bool { return cut[x] && cut[y] })
		died := time.Now()
		for i := 0; ; i++ {
			a.sendFrom(from, to, fmt.Sprint("down ", i))
			pass(10 * time.Millisecond)
			if b.received(fmt.Sprint("down ", i)) > 0 {
				break
			}
			if time.Since(died) > 10*time.Second {
				t.Fatalf("ten seconds after the direct path died nothing comes; path %s", a.path(b))
			}
		}
		took := time.Since(died)
		t.Logf("packets come again after %v over %s", took, a.path(b))
		if took > 2*time.Second {
			t.Errorf("it took %v, want at most 2 s", took)
		}
		if p := a.path(b); p == control.PathDirect {
			t.Errorf("path %s", p)
		}
		pass(time.Second)
		s.underlay.Lose(nil)
		for i := range 60 {
			a.sendFrom(from, to, fmt.Sprint("up ", i))
			pass(time.Second)
		}
		if p := a.path(b); p != control.PathDirect {
			t.Errorf("a minute after the cut was mended the path is %s", p)
		}
		for i := range 60 {
			if n := b.received(fmt.Sprint("up ", i)); n != 1 {
				t.Errorf("packet %d on the way back came %d times", i, n)
			}
		}
	})
}

// TestAddressSurvivesARestart: a node that starts again has its address and its
// place at once, though the only witness starts again too.
func TestAddressSurvivesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		fa, _ := s.holder("alice")
		fm := s.master(0)
		master := s.boot(fm).running()
		a := s.boot(fa).running()
		addr, id := a.address(), a.Status().NodeID
		a.stop()
		master.stop()
		s.bootAt(fm, 1, master.state).running()
		began := time.Now()
		a = s.bootAt(fa, 2, a.state).running()
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("its address came back after %v: the witness has forgotten", took)
		}
		if a.address() != addr || a.Status().NodeID != id {
			t.Errorf("after a restart %v, %s; before %v, %s", a.address(), a.Status().NodeID, addr, id)
		}
	})
}

// TestCertificateRenewedWhileRunning: sessions and leases go on when half of a
// certificate's day is over.
func TestCertificateRenewedWhileRunning(t *testing.T) {
	if testing.Short() {
		t.Skip("half a day takes half a minute")
	}
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		master := s.boot(s.master(0)).running()
		fa, _ := s.holder("alice")
		a := s.boot(fa).running()
		to, from := master.address(), a.address()
		serial := a.Status().Cert.Serial
		for hour := range 13 {
			text := fmt.Sprint("hour ", hour)
			a.sendFrom(from, to, text)
			pass(time.Hour)
			if master.received(text) != 1 {
				t.Fatalf("hour %d: %d packets; a %+v", hour, master.received(text), a.Status())
			}
		}
		if a.Status().Cert.Serial == serial {
			t.Error("the certificate is the first one")
		}
	})
}

// TestCrawlGoesRound visits every member once.
func TestCrawlGoesRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		master, a, b, _ := s.three()
		want := map[string]bool{master.Status().NodeID: true, a.Status().NodeID: true, b.Status().NodeID: true}
		got := map[string]bool{}
		err := a.Crawl(t.Context(), func(c control.Crawled) error {
			if got[c.NodeID] || !c.Consistent {
				t.Errorf("%+v", c)
			}
			got[c.NodeID] = true
			return nil
		})
		if err != nil || !maps.Equal(got, want) {
			t.Errorf("crawl: %v, %v; want %v", got, err, want)
		}
	})
}
