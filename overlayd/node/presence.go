package node

import (
	"net/netip"
	"time"

	"gridappliance/overlayd/device"
)

// presence decides when a node with an address may appear on the virtual
// LAN: not while the underlay uses the LAN's addresses. It is pure.
//
//	         routes are free: bringUp
//	absent ----------------------------> present
//	  | ^                                  | ^
//	  '-' routes overlap:                  '-' routes overlap: warn, stay
//	      conflict set, look again             (others' connections live on
//	      in absentDelay                       this device), look again in
//	                                           presentDelay
type presence struct {
	pool     netip.Prefix
	present  bool
	conflict error          // the overlap as last seen, nil when there is none
	solved   []device.Route // wider routes that longest prefix sorts out
	look     time.Time      // when to look at the routes again
}

const (
	absentDelay  = 5 * time.Second  // an administrator waits for it
	presentDelay = 30 * time.Second // networks come and go seldom
)

// Handle takes the underlay's routes at now and says whether to bring the
// device up.
func (p *presence) Handle(now time.Time, routes []device.Route) (bringUp bool) {
	p.solved, p.conflict = device.CheckOverlap(p.pool, routes)
	bringUp = p.conflict == nil && !p.present
	p.present = p.present || bringUp
	p.look = now.Add(absentDelay)
	if p.present {
		p.look = now.Add(presentDelay)
	}
	return bringUp
}

// NextDeadline is when to hand over the routes again.
func (p *presence) NextDeadline() time.Time { return p.look }
