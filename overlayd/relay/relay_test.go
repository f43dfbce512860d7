package relay

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

var start = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

func id(n int) nodeid.ID { return nodeid.ID{byte(n), byte(n >> 8), 1} }

// with returns a relay of namespace "one" that has links with nodes 1 to n:
// odd ones of "one", even ones of "two"; node k is of holder k/10.
func with(n int) *Machine {
	m := New(Config{Namespace: "one"})
	for i := 1; i <= n; i++ {
		up := LinkUp{ID: id(i), Holder: wire.Holder{byte(i / 10)}, Namespace: "one", Mbit: 100}
		if i%2 == 0 {
			up.Namespace = "two"
		}
		m.Handle(start, up)
	}
	return m
}

func ask(from, to int) Message {
	return Message{id(from), wire.Relay{Op: wire.RelayAsk, Peer: id(to)}}
}

func TestChannels(t *testing.T) {
	m := with(5)
	got := append([]Send{}, m.Handle(start, ask(1, 3))...)
	want := []Send{{id(1), wire.Relay{Op: wire.RelayAnswer, Channel: 1, Peer: id(3)}}, {id(3), wire.Relay{Op: wire.RelayNew, Channel: 1, Peer: id(1)}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	// The other end asks as well: it gets the same channel.
	got = append([]Send{}, m.Handle(start, ask(3, 1))...)
	want = []Send{{id(3), wire.Relay{Op: wire.RelayAnswer, Channel: 1, Peer: id(1)}}, {id(1), wire.Relay{Op: wire.RelayNew, Channel: 1, Peer: id(3)}}}
	if diff := cmp.Diff(want, got); diff != "" || m.Channels() != 1 {
		t.Error(diff)
	}
	m.Handle(start, ask(1, 5))
	if to, out, ok := m.Forward(start, id(1), 3, 100); !ok || to != id(5) || out != 1 {
		t.Error(to, out, ok)
	}
	if to, out, ok := m.Forward(start, id(5), 1, 100); !ok || to != id(1) || out != 3 {
		t.Error(to, out, ok)
	}
	// Closed by one end, told to the other.
	got = m.Handle(start, Message{id(3), wire.Relay{Op: wire.RelayClose, Channel: 1}})
	if diff := cmp.Diff([]Send{{id(1), wire.Relay{Op: wire.RelayClose, Channel: 1, Peer: id(3)}}}, got); diff != "" {
		t.Error(diff)
	}
	if _, _, ok := m.Forward(start, id(1), 1, 100); ok {
		t.Error("forwarded on a closed channel")
	}
	// A link's end closes the rest.
	got = m.Handle(start, LinkDown{id(5)})
	if diff := cmp.Diff([]Send{{id(1), wire.Relay{Op: wire.RelayClose, Channel: 3, Peer: id(5)}}}, got); diff != "" || m.Channels() != 0 {
		t.Error(diff)
	}
}

// TestTwoRelaysOnALink: each is the other's relay, and no number means two
// channels.
func TestTwoRelaysOnALink(t *testing.T) {
	seen := map[uint16]bool{}
	for _, own := range []int{10, 11} {
		m := New(Config{ID: id(own), Namespace: "one"})
		for _, peer := range []int{21 - own, 30, 31, 32} {
			m.Handle(start, LinkUp{ID: id(peer), Namespace: "one"})
		}
		for _, peer := range []int{30, 31, 32} {
			for _, s := range m.Handle(start, ask(21-own, peer)) {
				if s.To != id(21-own) {
					continue
				}
				if seen[s.Channel] || s.Channel == 0 {
					t.Errorf("node %d gives channel %d, which is in use", own, s.Channel)
				}
				seen[s.Channel] = true
			}
		}
	}
}

// TestUnlimited: what needs no budget may be carried elsewhere, and told of.
func TestUnlimited(t *testing.T) {
	m := with(6)
	before := m.Changes()
	m.Handle(start, ask(1, 3)) // both of "one"
	m.Handle(start, ask(1, 2)) // "one" and "two"
	if m.Changes() == before {
		t.Error("a new channel is no change")
	}
	got := map[Pair]bool{}
	for _, p := range m.Unlimited() {
		got[p] = true
	}
	want := map[Pair]bool{{id(1), 1, id(3), 1}: true, {id(3), 1, id(1), 1}: true, {id(1), 3, id(2), 1}: true}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	m.Handle(start.Add(idle-time.Second), Carried{id(1), 1, 10, 1000})
	if c := m.Counters(); c.Datagrams != 10 || c.Bytes != 1000 {
		t.Errorf("counted %+v", c)
	}
	before = m.Changes()
	m.Handle(start.Add(idle), Tick{})
	if m.Channels() != 1 || m.Changes() == before {
		t.Errorf("%d pairs of channels after five minutes, want the one that was used", m.Channels())
	}
	m.Handle(start, Carried{id(9), 1, 10, 1000}) // of a link that is gone
}

func TestRefusals(t *testing.T) {
	m := with(3)
	for _, tt := range []struct {
		name string
		e    Message
		want int // messages
	}{
		{"a peer without a link", ask(1, 9), 1}, {"itself", ask(1, 1), 1}, {"from nobody", ask(9, 1), 0},
		{"a channel that is not", Message{id(1), wire.Relay{Op: wire.RelayClose, Channel: 77}}, 0},
		{"an answer", Message{id(1), wire.Relay{Op: wire.RelayAnswer, Channel: 1, Peer: id(2)}}, 0},
	} {
		got := m.Handle(start, tt.e)
		if len(got) != tt.want || tt.want == 1 && got[0].Channel != 0 {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
	if c := m.Counters(); c.Refused != 2 || c.Channels != 0 {
		t.Errorf("%+v", c)
	}
}

func TestBounds(t *testing.T) {
	m := with(250)
	now := start
	for i := 1; i <= 250; i++ {
		for k := 1; k <= 250; k++ {
			if k%10 == 0 {
				now = now.Add(askEvery * 10)
			}
			m.Handle(now, ask(i, k))
		}
	}
	if m.Channels() != maxChannels/2 {
		t.Error(m.Channels())
	}
	for _, l := range m.links {
		if len(l.channels) > maxPerLink {
			t.Error(len(l.channels))
		}
	}
	// One that asks all the time is not even answered.
	answers := 0
	for range 1000 {
		answers += len(m.Handle(now, ask(1, 2)))
	}
	if answers > 2*askBurst {
		t.Errorf("%d messages", answers)
	}
	m.Handle(now.Add(idle), Tick{})
	if m.Channels() != 0 || !m.NextDeadline().IsZero() {
		t.Error("idle channels stay")
	}
}

func TestBudgets(t *testing.T) {
	// Nodes 12 and 14 are of one holder and of another namespace, 11 is of ours.
	m := with(20)
	for _, from := range []int{11, 12, 14, 2} {
		m.Handle(start, ask(from, 1))
	}
	sent := map[int]int{}
	now := start
	for range 100000 { // ten seconds, each tries 100 Mbit/s and more
		now = now.Add(100 * time.Microsecond)
		for _, from := range []int{11, 12, 14, 2} {
			if _, _, ok := m.Forward(now, id(from), 1, 1250); ok {
				sent[from] += 1250 * 8
			}
		}
	}
	if sent[11] != 100000*1250*8 {
		t.Errorf("the own namespace was limited: %d bits", sent[11])
	}
	mbit := func(n ...int) (sum float64) {
		for _, f := range n {
			sum += float64(sent[f]) / 10 / 1e6
		}
		return sum
	}
	if holder := mbit(12, 14); holder < 99 || holder > 103 {
		t.Errorf("a holder's two nodes had %.1f Mbit/s", holder)
	}
	if one := mbit(2); one < 99 || one > 103 {
		t.Errorf("another holder had %.1f Mbit/s", one)
	}
	if m.Counters().OverBudget == 0 {
		t.Error("not counted")
	}
}

func TestAllOthersTogether(t *testing.T) {
	m := with(200)
	for i := 2; i <= 200; i += 10 {
		m.Handle(start, ask(i, 1))
	}
	bits, now := 0.0, start
	for range 50000 {
		now = now.Add(100 * time.Microsecond)
		for i := 2; i <= 200; i += 10 { // twenty holders
			if _, _, ok := m.Forward(now, id(i), 1, 1250); ok {
				bits += 10000
			}
		}
	}
	if mbit := bits / 5 / 1e6; mbit < totalMbit*0.99 || mbit > totalMbit*1.06 {
		t.Errorf("%.0f Mbit/s", mbit)
	}
}

func TestForwardAllocatesNothing(t *testing.T) {
	m := with(4)
	m.Handle(start, ask(2, 1))
	now := start
	m.Forward(now, id(2), 1, 1200)
	if n := testing.AllocsPerRun(100, func() { now = now.Add(time.Millisecond); m.Forward(now, id(2), 1, 1200) }); n != 0 {
		t.Error(n)
	}
}

func FuzzMachine(f *testing.F) {
	f.Add([]byte{0, 1, 2, 0, 2, 1, 1, 1, 2, 2, 1, 1, 3, 1, 0, 4, 2, 0})
	f.Fuzz(func(t *testing.T, steps []byte) {
		m, now := New(Config{Namespace: "one"}), start
		for ; len(steps) > 2; steps = steps[3:] {
			a, b := id(int(steps[1]%16)), id(int(steps[2]%16))
			switch steps[0] % 6 {
			case 0:
				m.Handle(now, LinkUp{ID: a, Holder: wire.Holder{steps[1] % 4}, Namespace: []string{"one", "two"}[steps[2]%2], Mbit: int(steps[2])})
			case 1:
				m.Handle(now, Message{a, wire.Relay{Op: wire.RelayOp(1 + steps[0]/6%4), Channel: uint16(steps[2] % 8), Peer: b}})
			case 2:
				m.Handle(now, LinkDown{a})
			case 3:
				m.Forward(now, a, uint16(steps[2]%8), int(steps[2])*8)
			case 4:
				now = now.Add(time.Duration(steps[1]) * time.Second)
				m.Handle(now, Tick{})
			case 5:
				m.Handle(now, ask(int(steps[1]%16), int(steps[2]%16)))
			}
			ends := 0
			for _, l := range m.links {
				for n, c := range l.channels {
					ends++
					if c.number != n || c.owner != l || c.other.other != c || m.links[c.other.owner.ID] != c.other.owner || c.other.owner == l {
						t.Fatal("a channel without another end")
					}
				}
			}
			if ends != 2*len(m.order) || len(m.budgets) != len(m.holders) {
				t.Fatal(ends, len(m.order))
			}
		}
	})
}
