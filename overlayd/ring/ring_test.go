package ring

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

func endpointOf(id nodeid.ID) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(id[:4])), binary.BigEndian.Uint16(id[4:]))
}

func TestJoin(t *testing.T) {
	for _, n := range []int{1, 2, 3, 5, 9, 20, 100} {
		l := newLab(t, uint64(n))
		l.grow(n, time.Duration(n)*200*time.Millisecond)
		l.run(20 * time.Second)
		if err := l.ideal(); err != nil {
			t.Errorf("%d nodes: %v", n, err)
		}
	}
}

// TestStrandedTogether: two nodes that have met each other, and nobody of the
// ring, go on to call the first contact, which they know by its endpoint alone.
func TestStrandedTogether(t *testing.T) {
	l := newLab(t, 1)
	founder := l.add(l.id(), wire.Holder{1}, true)
	l.run(10 * time.Second)
	a, b := l.id(), l.id()
	for _, pair := range [][2]nodeid.ID{{a, founder.id}, {founder.id, a}, {b, founder.id}, {founder.id, b}} {
		l.cut[pair] = true
	}
	known := func(id nodeid.ID) []wire.Contact {
		return []wire.Contact{{Endpoints: []netip.AddrPort{endpointOf(founder.id)}}, {ID: id, Endpoints: []netip.AddrPort{endpointOf(id)}}}
	}
	na, nb := l.add(a, holderOf(a), false), l.add(b, holderOf(b), false)
	l.handle(na, Bootstrap{Contacts: known(b)})
	l.handle(nb, Bootstrap{Contacts: known(a)})
	l.run(10 * time.Second)
	if !has(na, b) || na.member || nb.member {
		t.Fatal("the two have not met, or are members without a ring")
	}
	clear(l.cut)
	l.run(10 * time.Second)
	if !na.member || !nb.member {
		t.Errorf("members 10 s after the first contact can be reached: %v and %v", na.member, nb.member)
	}
}
