package lease_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"gridappliance/overlayd/lease"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

// bench is one holder and the answers of three witnesses, by hand.
type bench struct {
	t       *testing.T
	h       *lease.Holder
	now     time.Time
	holds   map[nodeid.ID]wire.Hold // the latest to each witness
	states  []lease.State
	reasons []lease.Reason
	saved   []byte
	alarms  []lease.Alarm
	shown   int
	release int
}

var witnesses = []nodeid.ID{{0x80}, {0x81}, {0x82}}

func newBench(t *testing.T, saved []byte, now time.Time) *bench {
	id := nodeid.ID{1, 9}
	b := &bench{t: t, now: now, holds: map[nodeid.ID]wire.Hold{}}
	b.h = lease.NewHolder(lease.HolderConfig{ID: id, Crypto: fast{id}, Rand: rand.New(rand.NewPCG(1, 1))})
	b.do(lease.Want{Claim: 1, Namespace: "net", Saved: saved})
	if state, _ := b.h.Lease(1); saved == nil && state != lease.Acquiring {
		t.Fatalf("state %v after Want", state)
	}
	b.do(lease.Descriptor{Roster: lease.Roster{Epoch: 1, Witnesses: witnesses}, Policy: policy{time.Hour, 7 * 24 * time.Hour}})
	return b
}

func (b *bench) do(e lease.Event) {
	for _, a := range b.h.Handle(b.now, e) {
		switch a := a.(type) {
		case lease.Route:
			switch a.Type {
			case wire.TypeHold:
				m, err := wire.ParseHold(a.Body)
				if err != nil {
					b.t.Fatal(err)
				}
				b.holds[a.To.ID] = m
			case wire.TypeShow:
				b.shown++
			case wire.TypeRelease:
				b.release++
			}
		case lease.Changed:
			b.states, b.reasons = append(b.states, a.State), append(b.reasons, a.Why)
		case lease.Save:
			b.saved = a.Record
		case lease.Raise:
			b.alarms = append(b.alarms, a.Alarm)
		}
	}
}

// wait lets the time pass, with every tick.
func (b *bench) wait(d time.Duration) {
	end := b.now.Add(d)
	for n := b.h.NextDeadline(); !n.IsZero() && !n.After(end); n = b.h.NextDeadline() {
		if n.After(b.now) {
			b.now = n
		}
		b.do(lease.Tick{})
	}
	b.now = end
}

// round waits until a new round has begun.
func (b *bench) round() {
	clear(b.holds)
	for range 1000 {
		if len(b.holds) > 0 {
			return
		}
		b.wait(b.h.NextDeadline().Sub(b.now))
	}
	b.t.Fatal("no round begins")
}

// answer lets witnesses answer the latest Hold.
func (b *bench) answer(change func(a *wire.Answer), from ...nodeid.ID) {
	for _, w := range from {
		m := b.holds[w]
		a := wire.Answer{Key: m.Key, Nonce: m.Nonce, Epoch: 1, Witness: w, Incarnation: 1, Holder: m.Holder, Instance: m.Instance,
			Seq: m.Seq, Term: m.Term, End: b.now.Add(8 * 24 * time.Hour).Unix(), Known: []uint16{1, 1, 1}}
		change(&a)
		a.Signature = fast{w}.Sign(a.Signed(nil))
		b.do(lease.Routed{Src: w, Type: a.Type(), Body: a.Append(nil)})
	}
}

func grant(*wire.Answer) {}

func heldBy(other nodeid.ID) func(a *wire.Answer) {
	return func(a *wire.Answer) { a.Verdict, a.Holder, a.Seq = wire.Held, other, a.Seq+4 }
}

func (b *bench) want(state lease.State, why lease.Reason) {
	b.t.Helper()
	if got, _ := b.h.Lease(1); got != state || b.reasons[len(b.reasons)-1] != why {
		b.t.Errorf("state %v because %q, want %v because %q", got, b.reasons[len(b.reasons)-1], state, why)
	}
}

// TestHolderStates walks every arrow of Holder's drawing.
func TestHolderStates(t *testing.T) {
	b := newBench(t, nil, epoch)
	first := b.holds[witnesses[0]].Key
	// acquiring -> acquiring: another has it; the partial hold goes back.
	b.answer(grant, witnesses[0])
	b.answer(heldBy(nodeid.ID{7}), witnesses[1], witnesses[2])
	b.wait(3 * time.Second)
	if b.release == 0 || b.holds[witnesses[0]].Key == first {
		t.Errorf("%d releases, then asked for %v again", b.release, b.holds[witnesses[0]].Key)
	}
	// acquiring -> holding, by a majority and not before.
	b.round()
	b.answer(grant, witnesses[0])
	if state, _ := b.h.Lease(1); state != lease.Acquiring {
		t.Errorf("state %v after one vote of three", state)
	}
	b.answer(grant, witnesses[2])
	b.want(lease.Holding, lease.ReasonGranted)
	_, l := b.h.Lease(1)
	if err := b.h.Book().Verify(&l.Certificate); err != nil {
		t.Error(err)
	}
	// holding: a failed renewal releases nothing, and changes nothing.
	b.wait(5 * time.Second) // what the acquisition gave back is sent three times
	b.release = 0
	b.wait(5 * time.Hour)
	b.answer(heldBy(nodeid.ID{7}), witnesses[0])
	b.wait(time.Hour)
	if state, _ := b.h.Lease(1); state != lease.Holding || b.release != 0 {
		t.Errorf("state %v and %d releases after failed renewals", state, b.release)
	}
	// holding -> validating -> holding: nobody answers.
	b.do(lease.Resumed{})
	b.want(lease.Validating, lease.ReasonReturned)
	b.wait(3 * time.Second)
	b.want(lease.Holding, lease.ReasonUnreached)
	// ... one witness confirms.
	b.do(lease.Resumed{})
	b.wait(0)
	b.answer(grant, witnesses[1])
	b.want(lease.Holding, lease.ReasonConfirmed)
	// ... one says that another has it: not used until a majority decides.
	b.do(lease.Resumed{})
	b.wait(0)
	b.answer(heldBy(nodeid.ID{7}), witnesses[1])
	b.wait(3100 * time.Millisecond)
	b.want(lease.Validating, lease.ReasonReturned)
	b.answer(grant, witnesses[0], witnesses[2])
	b.want(lease.Holding, lease.ReasonGranted)
	// ... nothing heard for a lease time.
	b.now = b.now.Add(2 * time.Hour)
	b.do(lease.Tick{})
	b.want(lease.Validating, lease.ReasonReturned)
	b.wait(4 * time.Second)
	// holding -> acquiring: it ended, by the time that the Hold was sent.
	_, l = b.h.Lease(1)
	b.wait(l.Until().Sub(b.now) - time.Second)
	if _, l := b.h.Lease(1); !l.MaySend(b.now) {
		t.Error("a second before the end nothing may be sent")
	}
	b.wait(2 * time.Second)
	b.want(lease.Acquiring, lease.ReasonExpired)
	if b.release != 0 {
		t.Errorf("%d releases after the end", b.release)
	}
	b.round()
	if key := b.holds[witnesses[0]].Key; key != l.Key {
		t.Errorf("asks for %v, its address was %v", key, l.Key)
	}
	b.answer(grant, witnesses...)
	b.want(lease.Holding, lease.ReasonGranted)
	// holding -> acquiring: a majority says that another has it.
	b.wait(40 * time.Minute)
	b.round()
	b.answer(heldBy(nodeid.ID{7}), witnesses[0], witnesses[1])
	b.want(lease.Acquiring, lease.ReasonNewer)
	if !slices.Contains(b.alarms, lease.AlarmDoubleLease) {
		t.Errorf("alarms %v", b.alarms)
	}
}

// TestHolderReturns: a saved lease is validated before it is used, on its
// instance and while it lasts.
func TestHolderReturns(t *testing.T) {
	b := newBench(t, nil, epoch)
	b.answer(grant, witnesses...)
	b.want(lease.Holding, lease.ReasonGranted)
	saved, key := b.saved, b.holds[witnesses[0]].Key
	for _, c := range []struct {
		name  string
		at    time.Duration
		state lease.State
	}{
		{"two days later", 48 * time.Hour, lease.Validating},
		{"after its end", 8 * 24 * time.Hour, lease.Acquiring},
		{"the clock has gone back", -time.Hour, lease.Acquiring},
	} {
		again := newBench(t, saved, epoch.Add(c.at))
		if state, l := again.h.Lease(1); state != c.state || l.MaySend(again.now) {
			t.Errorf("%s: %v", c.name, state)
		}
		if again.holds[witnesses[0]].Key != key {
			t.Errorf("%s: asks for %v, its address was %v", c.name, again.holds[witnesses[0]].Key, key)
		}
	}
	// A rival's certificate with a higher seq ends it.
	_, l := b.h.Lease(1)
	rival := l.Certificate
	rival.Holder, rival.Seq, rival.Votes = nodeid.ID{7}, rival.Seq+1, slices.Clone(rival.Votes)
	for i := range rival.Votes {
		a := rival.Answer(i)
		rival.Votes[i].Signature = fast{rival.Votes[i].Witness}.Sign(a.Signed(nil))
	}
	b.do(lease.Rival{Certificate: rival})
	b.want(lease.Acquiring, lease.ReasonNewer)
}

// TestHolderNoticesTwin: a majority knows this node's key at a seq that it
// never sent.
func TestHolderNoticesTwin(t *testing.T) {
	b := newBench(t, nil, epoch)
	b.answer(grant, witnesses...)
	b.wait(40 * time.Minute)
	b.round()
	b.answer(func(a *wire.Answer) { a.Verdict, a.Seq = wire.WrongSeq, a.Seq+3 }, witnesses[0], witnesses[1])
	b.want(lease.Stopped, lease.ReasonTwin)
	if b.alarms[len(b.alarms)-1] != lease.AlarmTwinHolder || !b.h.NextDeadline().IsZero() {
		t.Errorf("alarms %v, next %v", b.alarms, b.h.NextDeadline())
	}
}
