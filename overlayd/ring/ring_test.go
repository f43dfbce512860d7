package ring

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"gridappliance/overlayd/nodeid"
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
