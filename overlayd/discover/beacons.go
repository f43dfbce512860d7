package discover

import (
	"net/netip"
	"slices"
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/underlay"
	"gridappliance/overlayd/wire"
)

// Implementation: tunable at will.
const (
	beaconEvery = time.Minute
	beaconFirst = time.Second // between the first three
	beaconLife  = 5 * time.Minute
	answerRate  = 10 // beacons answered in a second
)

// beacons is what was heard on the LAN, and when the next is sent.
type beacons struct {
	next    time.Time
	burst   int       // still to be sent soon
	heard   []heardOf // the newest first
	answers int       // in this second
	second  time.Time
}

type heardOf struct {
	id        nodeid.ID
	endpoints []netip.AddrPort
	where     string
	at        time.Time
}

// ask lets three beacons be sent, from now on.
func (x *beacons) ask(now time.Time) { x.next, x.burst = now, 3 }

// sendBeacons sends what is due, on each interface that carries multicast: the
// addresses that the interface itself has.
func (f *Finder) sendBeacons(now time.Time) {
	if f.lan == nil {
		return
	}
	x := &f.beacons
	x.heard = slices.DeleteFunc(x.heard, func(h heardOf) bool { return now.Sub(h.at) >= beaconLife })
	if now.Before(x.next) {
		return
	}
	pause := beaconEvery
	if x.burst > 0 {
		if x.burst--; x.burst > 0 {
			pause = beaconFirst
		}
	}
	x.next = now.Add(pause - time.Duration(f.rand.Int64N(int64(pause/5))))
	for _, i := range f.network.Interfaces {
		if i.Multicast {
			for _, b := range f.ownBeacons(i, true) {
				f.lan.ask(i, b)
			}
		}
	}
}

// ownBeacons are this node's on an interface: one for each tag.
func (f *Finder) ownBeacons(i underlay.Interface, asks bool) (out [][]byte) {
	var endpoints []netip.AddrPort
	for _, a := range i.Addresses {
		if a.IsGlobalUnicast() && len(endpoints) < wire.MaxEndpoints && (f.cfg.Listen.Addr().IsUnspecified() || f.cfg.Listen.Addr() == a) {
			endpoints = append(endpoints, netip.AddrPortFrom(a, f.cfg.Listen.Port()))
		}
	}
	if len(endpoints) == 0 {
		return nil
	}
	for _, tag := range f.cfg.Tags {
		out = append(out, Beacon{Asks: asks, Tag: tag, ID: f.cfg.ID, Endpoints: endpoints}.Append(nil))
	}
	return out
}

// takeBeacon hears one: of its endpoints those count that are on a network of
// this machine's, because that is what a LAN is.
func (f *Finder) takeBeacon(now time.Time, h heard) {
	b, err := ParseBeacon(h.data)
	if err != nil || b.ID == f.cfg.ID || !slices.Contains(f.cfg.Tags, b.Tag) {
		return
	}
	of := heardOf{id: b.ID, at: now}
	for _, e := range b.Endpoints {
		for _, p := range f.network.Addresses {
			if p.Contains(e.Addr()) && p.Addr() != e.Addr() && e.Port() != 0 && !slices.Contains(of.endpoints, e) {
				of.endpoints = append(of.endpoints, e)
			}
		}
	}
	where, here := f.interfaceOf(h.from, of.endpoints)
	of.where = where.Name
	x := &f.beacons
	if len(of.endpoints) > 0 {
		x.heard = slices.DeleteFunc(x.heard, func(o heardOf) bool { return o.id == b.ID })
		x.heard = slices.Insert(x.heard, 0, of)
		x.heard = x.heard[:min(len(x.heard), perSource)]
	}
	if !b.Asks || !here {
		return
	}
	if now.Sub(x.second) >= time.Second {
		x.second, x.answers = now, 0
	}
	if x.answers++; x.answers > answerRate {
		return
	}
	for _, own := range f.ownBeacons(where, false) {
		f.lan.answer(netip.AddrPortFrom(h.from.Addr(), beaconPort), own)
	}
}

// interfaceOf returns where a beacon came in: by the zone of a link-local
// source, or the network that its source is on.
func (f *Finder) interfaceOf(from netip.AddrPort, endpoints []netip.AddrPort) (underlay.Interface, bool) {
	on := func(a netip.Addr) func(underlay.Interface) bool {
		return func(i underlay.Interface) bool {
			if zone := a.Zone(); zone != "" {
				return i.Name == zone
			}
			return slices.ContainsFunc(f.network.Addresses, func(p netip.Prefix) bool { return p.Contains(a) && slices.Contains(i.Addresses, p.Addr()) })
		}
	}
	for _, a := range append([]netip.Addr{from.Addr()}, addrs(endpoints)...) {
		if i := slices.IndexFunc(f.network.Interfaces, on(a)); i >= 0 {
			return f.network.Interfaces[i], true
		}
	}
	return underlay.Interface{}, false
}

func addrs(endpoints []netip.AddrPort) (out []netip.Addr) {
	for _, e := range endpoints {
		out = append(out, e.Addr())
	}
	return out
}
