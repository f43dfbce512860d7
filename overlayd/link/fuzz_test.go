package link

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/session"
	"gridappliance/overlayd/sim"
	"gridappliance/overlayd/wire"
)

// FuzzMachine gives three machines what chance and an attacker on every wire
// can: two bytes are a step. Nothing may panic, grow without bound, be woken
// for ever or send to where nothing may be sent.
func FuzzMachine(f *testing.F) {
	configs := fuzzConfigs(f)
	f.Add([]byte{0, 1, 4, 0, 4, 0, 4, 0, 4, 0, 6, 1, 4, 0})
	f.Add([]byte{1, 1, 0x41, 2, 4, 0, 4, 1, 4, 0, 4, 1, 4, 0, 4, 1, 4, 0, 6, 3, 4, 0, 7, 9, 4, 0, 8, 1, 9, 30, 5, 77, 4, 0, 10, 2, 11, 3})
	f.Fuzz(func(t *testing.T, steps []byte) { play(t, configs, steps) })
}

// TestRandomSequences plays long sequences in which most datagrams arrive, so
// that they come further than a fuzzer does in seconds.
func TestRandomSequences(t *testing.T) {
	configs := fuzzConfigs(t)
	direct := uint64(0)
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 2))
		var steps []byte
		for range 1500 {
			what := byte(4)
			if r.IntN(3) == 0 {
				what = byte(r.IntN(14))
			}
			if what == 6 && r.IntN(4) > 0 || what == 13 || what == 2 && r.IntN(4) > 0 {
				what = 4
			}
			steps = append(steps, what|byte(r.IntN(4))<<6|byte(r.IntN(2))<<5, byte(r.IntN(200)))
		}
		x := play(t, configs, steps)
		for _, m := range x.m {
			direct += m.counters.Directs
		}
	}
	if direct < 60 {
		t.Errorf("only %d direct paths came about: the sequences try too little", direct)
	}
	t.Logf("%d direct paths in 20 sequences of 1,500 steps", direct)
}

func fuzzConfigs(t testing.TB) (configs []Config) {
	w := newWorld(t, 1)
	for _, name := range []string{"a", "b", "c"} {
		configs = append(configs, w.add(name, w.net.Internet, sim.Place{}).m.cfg)
	}
	return configs
}

func play(t *testing.T, configs []Config, steps []byte) *fuzzed {
	x := &fuzzed{t: t, now: sim.Start}
	for i, c := range configs {
		c.Rand = rand.New(rand.NewPCG(uint64(i), 1))
		c.Session.Random = rand.NewChaCha8([32]byte{byte(i)})
		m, err := New(c, x.now)
		if err != nil {
			t.Fatal(err)
		}
		x.m = append(x.m, m)
	}
	for i := 0; i+1 < len(steps) && i < 3000; i += 2 {
		x.step(steps[i], steps[i+1])
	}
	return x
}

type fuzzed struct {
	t    *testing.T
	now  time.Time
	m    []*Machine
	wire []letter
}

// letter is a datagram or ring payload on its way.
type letter struct {
	from, to int
	ring     bool
	data     []byte
}

func endpointOf(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), port)
}

func (x *fuzzed) do(i int, e Event) {
	m := x.m[i]
	for _, a := range slices.Clone(m.Handle(x.now, e)) {
		switch a := a.(type) {
		case SendDatagram:
			if len(a.Data) > 1252 || m.own.refuses(a.To) != "" {
				x.t.Fatalf("%d bytes to %v", len(a.Data), a.To)
			}
			for k := range x.m {
				if endpointOf(k) == a.To {
					x.wire = append(x.wire, letter{i, k, false, slices.Clone(a.Data)})
				}
			}
		case RouteSession:
			for k, o := range x.m {
				if o.id == a.To.ID {
					x.wire = append(x.wire, letter{i, k, true, slices.Clone(a.Data)})
				}
			}
		}
	}
	if len(x.wire) > 64 {
		x.wire = x.wire[len(x.wire)-64:]
	}
	x.bounds(m)
}

func (x *fuzzed) bounds(m *Machine) {
	if len(m.peers) > 16 || len(m.byKey) != len(m.peers) || len(m.bySession) > len(m.peers) || len(m.own.observers) > maxObservers || len(m.targets.order) > maxTargets {
		x.t.Fatal(len(m.peers), len(m.byKey), len(m.bySession))
	}
	for _, p := range m.peers {
		if len(p.pairs) > maxPairs || len(p.paths) > session.MaxPaths/2+2 || len(p.channels) > maxLinkChannels || p.best != nil && p.s != nil && !slices.Contains(p.paths, p.best) {
			x.t.Fatal(len(p.pairs), len(p.paths), p.best)
		}
		for _, pr := range p.pairs {
			if len(pr.questions.list) > maxQuestions {
				x.t.Fatal(len(pr.questions.list))
			}
		}
	}
}

func (x *fuzzed) step(what, arg byte) {
	i := int(what>>6) % len(x.m)
	k := int(arg) % len(x.m)
	other := x.m[k].id
	purpose := []string{"", "one"}[what>>5&1]
	switch what & 0x1f % 14 {
	case 0:
		x.do(i, Want{Contact: wire.Contact{ID: other}, Purpose: purpose})
	case 1:
		x.do(i, Want{Contact: wire.Contact{Endpoints: []netip.AddrPort{endpointOf(k)}}, Purpose: purpose})
	case 2:
		x.do(i, Unwant{other, purpose})
	case 3:
		x.do(i, Addresses{Host: []netip.AddrPort{endpointOf(i)}, Pools: []netip.Prefix{netip.MustParsePrefix("10.250.0.0/16")}})
	case 4, 5: // deliver, perhaps changed, again, or from elsewhere
		if len(x.wire) == 0 {
			return
		}
		at := int(arg) % len(x.wire)
		l := x.wire[at]
		d := slices.Clone(l.data)
		if what&0x1f%14 == 5 {
			d[int(arg)*13%len(d)] ^= 1 << (arg % 8)
		} else if what&0x10 == 0 {
			x.wire = slices.Delete(x.wire, at, at+1)
		}
		switch {
		case l.ring:
			x.do(l.to, Routed{Src: x.m[l.from].id, Data: d})
		case arg > 200:
			x.do(l.to, Datagram{From: endpointOf(int(arg)), Data: d})
		default:
			x.do(l.to, Datagram{From: endpointOf(l.from), Socket: uint16(arg) >> 6, Data: d})
		}
	case 6: // let everything happen for a while
		x.now = x.now.Add(time.Duration(arg) * 40 * time.Millisecond)
		for n := range x.m {
			for turn := 0; ; turn++ {
				d := x.m[n].NextDeadline()
				if d.IsZero() || d.After(x.now) {
					break
				}
				if turn == 100 {
					x.t.Fatalf("woken for ever: %v, now %v", d, x.now)
				}
				x.do(n, Tick{})
			}
		}
	case 7:
		x.do(i, Send{ID: other, Purpose: purpose, Message: []byte{arg, 1, 2}})
	case 8:
		x.do(i, Traffic{ID: other, Purpose: purpose, Sent: arg&1 != 0, Heard: slices.Repeat([]session.Via{session.Ring(other, nodeid.ID{})}, int(arg>>1&1))})
	case 9: // a peer that says what it likes
		m := x.m[i]
		if p := m.byKey[key{other, orLink(purpose)}]; p != nil && p.s != nil && p.best != nil {
			m.actions = m.actions[:0]
			var c wire.Candidates
			for n := range arg % 9 {
				e := netip.AddrPortFrom(netip.AddrFrom4([4]byte{arg, n, arg, n}), uint16(arg))
				c.List = append(c.List, wire.Candidate{Kind: wire.CandidateKind(1 + n%4), Endpoint: e})
			}
			c.Mapping, c.Spray = wire.Mapping(arg%3), arg&8 != 0
			c.Relays = append(c.Relays, wire.RelayOffer{ID: nodeid.ID{arg}}, wire.RelayOffer{ID: x.m[int(arg>>3)%3].id, RTT: uint16(arg)})
			messages := []wire.Message{c, wire.Check{Nonce: [8]byte{arg}, To: noEndpoint}, wire.CheckAnswer{Nonce: [8]byte{arg}, Challenge: [8]byte{7}, Observed: endpointOf(int(arg))}}
			m.say(x.now, p, p.best, messages[int(arg)%3])
			for _, a := range slices.Clone(m.actions) {
				if s, ok := a.(SendDatagram); ok {
					x.wire = append(x.wire, letter{i, k, false, s.Data})
				}
			}
		}
	case 10:
		x.do(i, Send{ID: other, Message: wire.AppendMessage(nil, wire.Relay{Op: wire.RelayOp(1 + arg%4), Channel: uint16(arg % 5), Peer: x.m[int(arg>>2)%3].id})})
	case 11:
		x.do(i, Forward{other, uint16(arg), []byte{0x84, arg, 3}})
	case 12:
		x.do(i, Recheck{})
	case 13:
		if arg > 200 {
			x.do(i, Destroy{session.Cloned})
		} else {
			x.do(i, Identity{x.m[i].cfg.Session.Chain})
		}
	}
}
