package lease_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"gridappliance/overlayd/lease"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

// types are the payloads that leases use.
var types = []wire.Type{wire.TypeHold, wire.TypeVote, wire.TypeNack, wire.TypeRelease, wire.TypeShow, wire.TypeHoldsAsk, wire.TypeHolds,
	wire.TypeGreet, wire.TypeGreeted, wire.TypeStop, wire.TypeStopped}

// FuzzMachines gives a witness and a holder hostile events: messages from real
// runs with bytes changed, and signed again so that they pass; rosters, times
// that jump, disks that lie. Neither panics, nor grows beyond its bounds.
func FuzzMachines(f *testing.F) {
	f.Add(uint64(1), []byte("hold"))
	f.Add(uint64(2), []byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 255, 254, 253})
	corpus := recorded(1)
	f.Fuzz(func(t *testing.T, seed uint64, script []byte) {
		rng := rand.New(rand.NewPCG(seed, 1))
		w := newWorld(seed, variant{witnesses: 3})
		w.until(time.Duration(rng.IntN(20)) * time.Second)
		targets := []*host{w.hosts[0], w.holders0()}
		for i := 0; i+1 < len(script) && i < 400; i += 2 {
			h := targets[script[i]&1]
			if h == nil || !h.up {
				continue
			}
			m := corpus[int(script[i+1])%len(corpus)]
			m.Body = append([]byte{}, m.Body...)
			for range script[i] >> 6 {
				m.Body[rng.IntN(len(m.Body))] ^= 1 << rng.IntN(8)
			}
			switch script[i] >> 1 & 15 {
			case 0:
				m.Type = types[rng.IntN(len(types))]
			case 1:
				h.base = h.base.Add(time.Duration(rng.Int64N(int64(1000 * time.Hour))))
			case 2:
				h.base = h.base.Add(-time.Duration(rng.Int64N(int64(1000 * time.Hour))))
			case 3:
				h.crash(true, 0)
				if len(h.disk) > 0 {
					h.disk[rng.IntN(len(h.disk))] ^= 1
				}
			case 4:
				h.handle(lease.Persisted{N: rng.Uint64()})
			case 5:
				h.handle(lease.Published{Type: m.Type, Body: m.Body})
			case 6:
				h.handle(lease.Descriptor{Roster: lease.Roster{Epoch: uint64(rng.IntN(6)), Witnesses: []nodeid.ID{{byte(0x80 + rng.IntN(5))}}, Forced: rng.IntN(2) == 0}, Policy: w.policy()})
			case 7:
				h.handle(lease.Want{Claim: lease.ClaimID(rng.IntN(5)), Namespace: "net", Saved: m.Body})
			case 8:
				h.handle(lease.Unwant{Claim: lease.ClaimID(rng.IntN(5))})
			case 9:
				h.handle(lease.Resumed{})
			case 10:
				if c, err := wire.ParseLeaseCertificate(m.Body); err == nil {
					h.handle(lease.Rival{Certificate: c})
				}
			}
			resign(&m)
			h.handle(lease.Routed{Src: m.Src, RPC: m.RPC, Type: m.Type, Body: m.Body})
			w.until(w.now + time.Duration(rng.IntN(2000))*time.Millisecond)
		}
		holds, pending, seen, known := w.hosts[0].witness.Sizes()
		if holds > 1<<17 || pending > 1024 || seen > 72 || known > 72 {
			t.Errorf("%d holds, %d pending, %d seen, %d known", holds, pending, seen, known)
		}
	})
}

// resign signs a changed message again with the key that its signature names,
// so that what is behind the signature's check is reached.
func resign(m *lease.Routed) {
	again := func(s *wire.Signature, signed []byte) wire.Signature { return fast{nodeid.ID(s.Key[:16])}.Sign(signed) }
	switch m.Type {
	case wire.TypeHold:
		if x, err := wire.ParseHold(m.Body); err == nil {
			x.Signature = again(&x.Signature, x.Signed(nil))
			m.Body = x.Append(nil)
		}
	case wire.TypeVote, wire.TypeNack:
		if x, err := wire.ParseAnswer(m.Body); err == nil {
			x.Signature = again(&x.Signature, x.Signed(nil))
			m.Type, m.Body = x.Type(), x.Append(nil)
		}
	case wire.TypeRelease:
		if x, err := wire.ParseRelease(m.Body); err == nil {
			x.Signature = again(&x.Signature, x.Signed(nil))
			m.Body = x.Append(nil)
		}
	case wire.TypeHoldsAsk:
		if x, err := wire.ParseHoldsAsk(m.Body); err == nil {
			x.Signature = again(&x.Signature, x.Signed(nil))
			m.Body = x.Append(nil)
		}
	case wire.TypeHolds:
		if x, err := wire.ParseHolds(m.Body); err == nil {
			x.Signature = again(&x.Signature, x.Signed(nil))
			m.Body = x.Append(nil)
		}
	case wire.TypeGreet:
		if x, err := wire.ParseGreet(m.Body); err == nil {
			x.Signature = again(&x.Signature, x.Signed(nil))
			m.Body = x.Append(nil)
		}
	}
}

func (w *world) holders0() *host {
	if list := w.holders(); len(list) > 0 {
		return list[0]
	}
	return nil
}

// recorded returns the messages of a run.
func recorded(seed uint64) []lease.Routed {
	w := newWorld(seed, everything("recorded"))
	w.record = &[]lease.Routed{}
	w.plan(100 * time.Second)
	w.until(100 * time.Second)
	return (*w.record)[:min(len(*w.record), 256)]
}
