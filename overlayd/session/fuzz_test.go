package session

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"gridappliance/credential"
)

func endpoint(b byte) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, b}), 4242)
}

// FuzzParse holds every parser to a round trip.
func FuzzParse(f *testing.F) {
	h := hello{sender: 7, noise: make([]byte, 40)}
	f.Add(h.append(nil))
	p := part{typeAnswer, 1, 3, 4, 5, []byte("data")}
	f.Add(p.append(nil))
	whole := payload{choice: 1, chain: credential.Chain{{1}, {2, 3}}, offer: []byte("x")}
	f.Add(whole.append(nil))
	one := payload{choice: 2, chain: credential.Chain{{1}}, rest: [32]byte{9}}
	f.Add(one.append(nil))
	none := payload{choice: 2, rest: [32]byte{9}}
	f.Add(none.append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= helloHead {
			if h, _, ok := parseHello(b, len(b)); ok {
				again := h.append(nil)
				if !bytes.Equal(again[4:], b[4:]) {
					t.Fatalf("HELLO %x from %x", again, b)
				}
			}
		}
		if p, _, ok := parsePart(b); ok {
			again := p.append(nil)
			again[3] = b[3]
			if !bytes.Equal(again, b) {
				t.Fatalf("part %x from %x", again, b)
			}
		}
		if p, ok := parsePayload(b); ok && !bytes.Equal(p.append(nil), b) {
			t.Fatalf("payload %x from %x", p.append(nil), b)
		}
		ParseIndex(b)
	})
}

// FuzzMachine gives two machines what an attacker between them and chance can:
// each two bytes are a step. Nothing may panic or grow without bound, and
// messages that are opened are ones that were sealed, each once.
func FuzzMachine(f *testing.F) {
	g := newGrid(f, "archer")
	holders := []*credential.Identity{g.holder("alice", 0, 0), g.holder("bob", 0, 40)}
	f.Add([]byte{0, 0, 4, 0, 4, 1, 4, 2, 4, 3})
	f.Add([]byte{0, 0, 1, 0, 5, 200, 4, 1, 6, 9, 5, 255, 7, 3, 3, 0, 2, 1, 8, 0, 9, 0, 10, 0})
	f.Fuzz(func(t *testing.T, steps []byte) { play(t, g, holders, steps[:min(len(steps), 400)]) })
}

// TestRandomSequences plays long sequences in which most datagrams arrive.
func TestRandomSequences(t *testing.T) {
	g := newGrid(t, "archer")
	holders := []*credential.Identity{g.holder("alice", 0, 0), g.holder("bob", 0, 40)}
	ups, opened := uint64(0), 0
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 3))
		var steps []byte
		for range 1500 {
			what := byte(r.IntN(2)) * 7 // deliver or seal
			if what == 0 {
				what = 4
			}
			if r.IntN(8) == 0 {
				what = byte(r.IntN(11)) | byte(r.IntN(4))<<5
			}
			if end := what & 0x1f; (end == 2 || end == 8) && r.IntN(16) > 0 {
				what = 4
			}
			steps = append(steps, what|byte(r.IntN(2))<<7, byte(r.IntN(8)))
		}
		for _, p := range play(t, g, holders, steps) {
			ups += p.Counters().Ups
			opened += len(p.got)
		}
	}
	if ups < 30 || opened < 500 {
		t.Errorf("%d sessions, %d messages: the sequences try too little", ups, opened)
	}
	t.Logf("%d sessions, %d messages", ups, opened)
}

func play(t *testing.T, g *grid, holders []*credential.Identity, steps []byte) []*peer {
	g.t, g.seed = t, 0
	x := &played{net: newNet(t, g.node("a", holders[0], nil), g.node("b", holders[1], nil))}
	x.lose = func(f flight) bool {
		x.seen = append(x.seen, append([]byte{}, f.data...))
		return true
	}
	for i := 0; i+1 < len(steps); i += 2 {
		x.step(steps[i], steps[i+1])
		x.queue = nil
	}
	for _, p := range x.peers {
		attempts, halves, sessions := p.Len()
		if attempts > 1 || halves > maxHalfOpen || sessions > 1 || len(p.byIndex) > attempts+halves+3*sessions+1 || p.held > maxPieces {
			t.Fatal(attempts, halves, sessions, len(p.byIndex), p.held)
		}
		once := map[string]bool{}
		for _, text := range p.got {
			if !bytes.HasPrefix(text, []byte("sealed")) || once[string(text)] {
				t.Fatalf("opened %q", text)
			}
			once[string(text)] = true
		}
	}
	return x.peers
}

type played struct {
	*net
	seen   [][]byte // every datagram sent, to be delivered by a step
	sealed uint32
}

func (x *played) step(what, arg byte) {
	p, q := x.peers[0], x.peers[1]
	if what&0x80 != 0 {
		p, q = q, p
	}
	switch what & 0x1f % 11 {
	case 0, 1:
		x.open(p, q)
	case 2:
		x.do(p, Close{p.Session(q.id, LinkPurpose)})
	case 3:
		x.do(p, Recheck{})
	case 4, 5: // deliver something seen, perhaps changed or cut
		if len(x.seen) == 0 {
			return
		}
		d := append([]byte{}, x.seen[len(x.seen)-1-int(arg)%min(len(x.seen), 16)]...)
		if what&0x40 != 0 {
			d[int(arg)*7%len(d)] ^= arg | 1
		} else if what&0x20 != 0 {
			d = d[:int(arg)*len(d)/255]
		}
		x.do(p, Datagram{Direct(q.at), d})
	case 6:
		x.now = x.now.Add(time.Duration(arg) * 100 * time.Millisecond)
		x.do(p, Tick{})
	case 7:
		if s := p.Session(q.id, LinkPurpose); s != nil {
			text := binary.BigEndian.AppendUint32([]byte("sealed"), x.sealed)
			if r, err := s.Seal(nil, x.now, arg, text); err == nil {
				x.sealed++
				x.seen = append(x.seen, r)
			}
		}
	case 8:
		x.do(p, Destroy{Cloned})
	case 9:
		x.do(p, Identity{p.cfg.Chain, []byte{arg}})
	case 10:
		x.do(p, Datagram{Direct(endpoint(arg)), bytes.Repeat([]byte{0x80 | arg}, int(arg)*5)})
	}
}

// FuzzWindow holds the replay window against a set.
func FuzzWindow(f *testing.F) {
	f.Add([]byte{1, 2, 3, 2, 255, 0, 1})
	f.Fuzz(func(t *testing.T, steps []byte) {
		var w window
		seen := map[uint64]bool{}
		highest, at := uint64(0), uint64(0)
		for _, s := range steps {
			switch {
			case s < 100:
				at += uint64(s)
			case s < 200:
				at -= min(at, uint64(s-100)*20)
			default:
				at += uint64(s-200) * 100
			}
			want := !seen[at] && (at > highest || highest-at < Window)
			if got := w.fresh(at); got != want {
				t.Fatalf("counter %d, highest %d: fresh %v", at, highest, got)
			}
			if want {
				w.accept(at)
				seen[at] = true
				highest = max(highest, at)
			}
		}
	})
}
