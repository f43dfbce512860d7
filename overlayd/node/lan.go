package node

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"gridappliance/credential"
	"gridappliance/overlayd/core"
	"gridappliance/overlayd/datapath"
	"gridappliance/overlayd/device"
	"gridappliance/overlayd/lease"
	"gridappliance/overlayd/link"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/packet"
	"gridappliance/overlayd/relay"
	"gridappliance/overlayd/session"
	"gridappliance/overlayd/vnet"
	"gridappliance/overlayd/wire"
)

// reportPause is how often link is told what the data path has carried: a path
// that has died is noticed that much later, also by the first packet after a
// silence.
const reportPause = 100 * time.Millisecond

// tracked is what the loop remembers of a session of the namespace, or of a
// link with a relay, between two Tables.
type tracked struct {
	activity *datapath.Activity
	ways     []*datapath.Way
	sent     uint64   // of activity, when link was last told
	heard    []uint64 // of ways
}

// lanEvent gives the virtual LAN an event and does what follows from it.
func (n *Node) lanEvent(now time.Time, e vnet.Event) {
	for _, a := range slices.Clone(n.lan.Handle(now, e)) {
		switch a := a.(type) {
		case vnet.Ask:
			n.askWho(now, a.Address)
		case vnet.Want:
			n.handle(now, core.Other{Event: link.Want{Contact: n.contactOf(a.ID), Purpose: n.namespace}})
		case vnet.Unwant:
			n.handle(now, core.Other{Event: link.Unwant{ID: a.ID, Purpose: n.namespace}})
		case vnet.Send:
			if !n.maySend(time.Now()) { // now may be old: others wait behind it, and the process may have been stopped
				n.counters.drop(dropLease)
				continue
			}
			n.track(a.ID, n.namespace).activity.Sent(1, len(a.Packet))
			n.handle(now, core.Other{Event: link.Send{ID: a.ID, Purpose: n.namespace, Message: a.Packet}})
		case vnet.Deliver:
			n.path.Deliver(a.Packet)
		case vnet.Changed:
			n.stale = true
		case vnet.Drop:
			n.counters.add(string(a.Why), a.Packets)
		}
	}
}

// contactOf says where to call a node: where its link is, or over the ring.
func (n *Node) contactOf(id nodeid.ID) wire.Contact {
	c := wire.Contact{ID: id}
	if e, ok := n.links.Endpoint(id); ok {
		c.Endpoints = []netip.AddrPort{e}
	}
	return c
}

// askWho finds out who has an address: by lease, or of IPv6 by position.
func (n *Node) askWho(now time.Time, addr netip.Addr) {
	if addr.Is4() {
		n.ask(now, func(token uint64) core.Event { return core.Whois{Token: token, Address: addr} }, func(a core.Action) {
			who := a.(core.Who)
			n.later = append(n.later, vnet.Who{Address: addr, ID: who.ID, Node: who.Node, Until: who.Until, Found: who.Err == nil && who.Address == addr})
		})
		return
	}
	at := vnet.Position(addr)
	n.ask(now, func(token uint64) core.Event { return core.Lookup{Token: token, Key: at} }, func(a core.Action) {
		found := a.(core.Found)
		id := found.Node.ID
		n.later = append(n.later, vnet.Who{Address: addr, ID: id, Found: found.Err == nil && vnet.Address6(n.namespace, id) == addr})
	})
}

// sessionChanged follows the namespace's sessions, and notices ends of links.
func (n *Node) sessionChanged(now time.Time, a link.Action) {
	switch a := a.(type) {
	case link.Up:
		n.later = append(n.later, n.up(a.Contact.ID))
		n.pingsUp(now, a.Contact.ID)
	case link.PathChanged:
		n.later = append(n.later, n.up(a.ID))
	case link.KeysChanged:
		n.stale = true
		id, purpose := a.Session.Peer(), a.Session.Purpose()
		if purpose == n.namespace && n.tracks[trackKey{id, purpose}] != nil {
			n.later = append(n.later, n.up(id)) // packets may be longer, or must be shorter, on another path
		}
	case link.Down:
		delete(n.tracks, trackKey{a.ID, a.Purpose})
		n.stale = true
		if a.Purpose == n.namespace {
			n.later = append(n.later, vnet.Down{ID: a.ID, Barred: a.Reason == session.Refused || a.Reason == session.CertExpired})
		}
	case link.Failed:
		n.later = append(n.later, vnet.Down{ID: a.Contact.ID})
	case link.Message:
		if a.Total > 1 { // a superpacket's checksums are made by who takes it apart
			if ip, err := packet.Parse(a.Body); err == nil && ip.Plain {
				ip.Checksum(a.Body)
			}
		}
		n.track(a.From, a.Purpose).activity.Heard(1, len(a.Body))
		n.later = append(n.later, vnet.In{From: a.From, Packet: a.Body})
	case link.Pong:
		if p, ok := n.pings[a.Token]; ok {
			delete(n.pings, a.Token)
			p.then(a)
		}
	case link.Reflexive:
		n.reflexive = a
	}
}

// up says how long packets may be on a peer's path.
func (n *Node) up(id nodeid.ID) vnet.Event {
	room := 0
	if s, ok := n.links.Snapshot(id, n.namespace); ok {
		room = n.mtu
		if s.Via.IsRing() {
			room = min(room, wire.MaxCarried-session.Overhead)
		}
	}
	n.track(id, n.namespace)
	return vnet.Up{ID: id, Room: room}
}

type trackKey struct {
	id      nodeid.ID
	purpose string
}

func (n *Node) track(id nodeid.ID, purpose string) *tracked {
	k := trackKey{id, purpose}
	t := n.tracks[k]
	if t == nil {
		t = &tracked{activity: new(datapath.Activity)}
		n.tracks[k] = t
	}
	return t
}

// way returns the Way of a path, the same for as long as there is one.
func (t *tracked) way(via session.Via) *datapath.Way {
	for _, w := range t.ways {
		if w.Via == via {
			return w
		}
	}
	w := &datapath.Way{Via: via}
	t.ways, t.heard = append(t.ways, w), append(t.heard, 0)
	return w
}

// keep forgets the Ways of paths that are no more.
func (t *tracked) keep(paths []session.Via) {
	for i := 0; i < len(t.ways); i++ {
		if !slices.Contains(paths, t.ways[i].Via) {
			t.ways, t.heard = slices.Delete(t.ways, i, i+1), slices.Delete(t.heard, i, i+1)
			i--
		}
	}
}

// report tells link what the data path has carried.
func (n *Node) report(now time.Time) {
	if now.Before(n.reportAt) {
		return
	}
	n.reportAt = now.Add(reportPause)
	n.reportCarried(now)
	n.forgetQuestions(now)
	for k, t := range n.tracks {
		e := link.Traffic{ID: k.id, Purpose: k.purpose}
		if sent := t.activity.SentPackets.Load(); sent != t.sent {
			t.sent, e.Sent = sent, true
		}
		for i, w := range t.ways {
			if heard := w.Heard.Load(); heard != t.heard[i] {
				t.heard[i] = heard
				e.Heard = append(e.Heard, w.Via)
			}
		}
		if !e.Sent && len(e.Heard) == 0 {
			continue
		}
		n.handle(now, core.Other{Event: e})
		if k.purpose != n.namespace {
			continue
		}
		n.later = append(n.later, vnet.Active{ID: k.id})
		if n.links.State(k.id, k.purpose) != link.Direct {
			n.handle(now, core.Demand{ID: k.id})
		}
	}
}

// table makes the data path's Table of the moment. A virtual endpoint is no
// socket's: what goes there or comes from there, the loop carries.
func (n *Node) table() *datapath.Table {
	t := &datapath.Table{Until: n.until(), Own: n.own(), Pool: n.pool,
		To: map[netip.Addr]*datapath.Peer{}, Keys: map[uint32]*datapath.Opening{}, Relays: map[uint32]*datapath.Relay{}}
	relays := map[nodeid.ID]*datapath.Relay{}
	holdings := n.lan.Holdings()
	for k, track := range n.tracks {
		if k.purpose != n.namespace {
			continue
		}
		s, ok := n.links.Snapshot(k.id, k.purpose)
		if !ok {
			continue
		}
		track.keep(s.Ways)
		var from []*datapath.Way
		for _, via := range s.Ways {
			if via.Virtual() != session.NotVirtual {
				continue
			}
			from = append(from, track.way(via))
			if via.Channel != 0 {
				n.relay(t, relays, via.Node)
			}
		}
		sources := append(holdings[k.id], vnet.Address6(n.namespace, k.id))
		for _, keys := range s.Session.Opening() {
			if keys.Heard() {
				t.Keys[keys.Index()] = &datapath.Opening{ID: k.id, Keys: keys, From: from, Sources: sources, Activity: track.activity}
			}
		}
		keys := s.Session.Keys()
		if keys == nil || s.Via.IsRing() || s.Via.Virtual() != session.NotVirtual {
			continue
		}
		p := &datapath.Peer{ID: k.id, Keys: keys, Path: s.Path, Via: s.Via, MTU: n.mtu, Activity: track.activity}
		if s.Via.Channel != 0 {
			if p.Relay = relays[s.Via.Node]; p.Relay == nil {
				continue
			}
		}
		for _, addr := range sources {
			t.To[addr] = p
		}
	}
	n.carryOn(t, relays)
	return t
}

// carriedOn is what the loop remembers of a direction that the data path
// carries for two others.
type carriedOn struct {
	*datapath.Carried
	datagrams, bytes uint64 // of it, when core was last told
}

// carryOn puts into a Table what this node relays without a budget.
func (n *Node) carryOn(t *datapath.Table, relays map[nodeid.ID]*datapath.Relay) {
	relaying := n.core.Relaying()
	n.relayChanges = relaying.Changes()
	kept := map[relay.Pair]*carriedOn{}
	for _, p := range relaying.Unlimited() {
		n.relay(t, relays, p.From)
		n.relay(t, relays, p.To)
		from, to := relays[p.From], relays[p.To]
		if from == nil || to == nil {
			continue
		}
		c := n.carried[p]
		if c == nil {
			c = &carriedOn{Carried: new(datapath.Carried)}
		}
		kept[p] = c
		from.Forward[p.Channel] = &datapath.Forward{To: to, Channel: p.Out, Carried: c.Carried}
	}
	n.carried = kept
}

// reportCarried tells core what the data path has carried for others.
func (n *Node) reportCarried(now time.Time) {
	for p, c := range n.carried {
		datagrams, bytes := c.Datagrams.Load(), c.Bytes.Load()
		if datagrams == c.datagrams {
			continue
		}
		n.handle(now, core.Carried{From: p.From, Channel: p.Channel, Datagrams: datagrams - c.datagrams, Bytes: bytes - c.bytes})
		c.datagrams, c.bytes = datagrams, bytes
	}
}

// relay puts a node that relays for this one into a Table: for what is marked
// under current keys, and for what comes under any.
func (n *Node) relay(t *datapath.Table, relays map[nodeid.ID]*datapath.Relay, id nodeid.ID) {
	if relays[id] != nil {
		return
	}
	s, ok := n.links.Snapshot(id, session.LinkPurpose)
	if !ok || !s.Via.IsDirect() || s.Via.Virtual() != session.NotVirtual || s.Session.Keys() == nil {
		return
	}
	track := n.track(id, session.LinkPurpose)
	track.keep(s.Ways)
	r := datapath.Relay{ID: id, Keys: s.Session.Keys(), Via: s.Via, Channels: s.Channels,
		Forward: map[uint16]*datapath.Forward{}, Activity: track.activity}
	for _, via := range s.Ways {
		if via.IsDirect() && via.Virtual() == session.NotVirtual {
			r.From = append(r.From, track.way(via))
		}
	}
	relays[id] = &r
	for _, keys := range s.Session.Opening() {
		if keys.Heard() {
			under := r
			under.Keys = keys
			t.Relays[keys.Index()] = &under
		}
	}
}

// until is when this node may no longer use its addresses, as the data path's
// clock reads then: at the end of the lease, if there is one, or of the
// certificate. The clock is read first: a process that is stopped in between
// comes to an end that is too early, never too late.
func (n *Node) until() time.Duration {
	clock, now := n.cfg.Clock(), time.Now()
	if n.refused != nil {
		return 0
	}
	end := n.cert.Node.NotAfter.Sub(now.Round(0))
	if n.address.IsValid() && !n.fixed {
		_, l := n.core.Lease(claimAddress)
		if !l.MaySend(now) {
			return 0
		}
		end = min(end, l.Until().Sub(now))
	}
	return clock + end
}

// maySend says whether the loop may send packets of this node's.
func (n *Node) maySend(now time.Time) bool {
	return n.refused == nil && now.Round(0).Before(n.cert.Node.NotAfter) && (!n.address.IsValid() || n.fixed || n.core.MaySend(claimAddress, now))
}

// own are this node's addresses on the virtual LAN.
func (n *Node) own() []netip.Addr {
	own := []netip.Addr{vnet.Address6(n.namespace, n.id)}
	if n.address.IsValid() {
		own = append(own, n.address.Addr())
	}
	return own
}

// leased follows the lease of this node's address.
func (n *Node) leased(now time.Time, a core.Leased) {
	if n.fixed {
		return
	}
	n.leaseState = a.State
	n.stale = true
	var addr netip.Prefix
	if a.State == lease.Holding {
		addr = netip.PrefixFrom(a.Lease.Key.Addr(), n.pool.Bits())
	}
	if addr == n.address {
		return
	}
	n.urgent()
	if n.address.IsValid() {
		n.log.Warn("address lost", "addr", n.address, "reason", a.Why)
	}
	n.address, n.deviceUp = addr, false
	n.presence = presence{pool: n.pool}
	n.locate(now)
	n.later = append(n.later, vnet.Own{Addresses: n.own()})
	if addr.IsValid() {
		n.log.Info("address leased", "addr", addr, "reason", a.Why)
	} else {
		n.path.Publish(n.table()) // before anything else is sent
	}
}

// fixedHolders are the roster's addresses of this node's namespace.
func fixedHolders(d *credential.Descriptor, namespace string) map[netip.Addr]nodeid.ID {
	out := map[netip.Addr]nodeid.ID{}
	for _, m := range d.Masters {
		if m.Namespace == namespace {
			out[m.Address] = nodeid.ID(m.ID)
		}
	}
	return out
}

// trusted follows the descriptor and the revocation lists.
func (n *Node) trusted(now time.Time, a core.Trusted) {
	n.log.Info("descriptor or revocations changed", "descriptor", a.Versions.Descriptor, "revocations", a.Versions.Revocations)
	if verifier, err := n.trust.Verifier(); err == nil {
		if _, err := verifier.VerifyHolder(n.identity.Chain, now.Round(0)); errors.Is(err, credential.ErrRevoked) {
			n.refuse(now, fmt.Errorf("verify floppy: %w: ask for a new one", err))
		}
	}
	if !a.Descriptor {
		return
	}
	d, err := n.trust.Descriptor()
	if err != nil || d == nil {
		return // the alarm has been told
	}
	identity, err := credential.Open(d.Text(), n.cfg.Floppy.HolderCert, n.cfg.Floppy.HolderKey, now.Round(0))
	if err != nil {
		n.log.Error("the new descriptor does not know this floppy's holder", "err", err)
		return
	}
	n.identity = identity
	n.followRoster(now)
	n.later = append(n.later, vnet.Fixed{Holders: fixedHolders(d, n.namespace)})
	n.renamed()
}

// followRoster looks up what a new descriptor says of this node. One that it
// makes another node of ends, to begin anew.
func (n *Node) followRoster(now time.Time) {
	before, pool := n.address, n.pool
	switch err := n.takeFixedAddress(); {
	case err != nil:
		n.refuse(now, err)
	case n.pool != pool:
		n.refuse(now, fmt.Errorf("follow descriptor: the virtual network is %s now, it was %s: starting anew", n.pool, pool))
	case n.fixed && n.address != before:
		n.log.Warn("the roster has another address for this node", "addr", n.address)
		n.deviceUp, n.presence, n.stale = false, presence{pool: n.pool}, true
		n.later = append(n.later, vnet.Own{Addresses: n.own()})
	}
}

// refuse closes the data plane, and lets the node end when it has told others
// what made it.
func (n *Node) refuse(now time.Time, why error) {
	if n.refused == nil {
		n.refused, n.endAt, n.stale = why, now.Add(farewell), true
		n.urgent()
	}
}

// deviceConfig is what the device is to be.
func (n *Node) deviceConfig() device.Config {
	cfg := device.Config{Name: n.cfg.Device, HardwareAddr: device.HardwareAddr(n.id), MTU: n.mtu,
		Address6: netip.PrefixFrom(vnet.Address6(n.namespace, n.id), vnet.Prefix6(n.namespace).Bits())}
	if n.address.IsValid() && n.presence.present {
		cfg.Address = n.address
	}
	return cfg
}

// openDevice brings the device up, with this node's IPv6 address: that needs
// nobody's vote.
func (n *Node) openDevice() error {
	cfg := n.deviceConfig()
	dev, err := n.cfg.Host.Open(cfg)
	if err != nil {
		return err
	}
	n.path.Attach(dev, [6]byte(cfg.HardwareAddr))
	return nil
}

// appear looks at the underlay's routes and gives the device its address when
// they leave the pool alone.
func (n *Node) appear(now time.Time) error {
	routes, err := n.cfg.Host.Routes(n.cfg.Device)
	if err != nil {
		return err
	}
	n.urgent()
	if !n.presence.Handle(now, routes) {
		return nil
	}
	for _, r := range n.presence.solved {
		n.log.Warn("the underlay has a wider route: addresses of the pool are reached by the virtual network alone", "addr", n.pool, "reason", r)
	}
	if err := n.cfg.Host.Configure(n.deviceConfig()); err != nil {
		return err
	}
	n.deviceUp, n.since = true, now.Round(0)
	n.log.Info("address taken", "addr", n.address, "node", n.id)
	return nil
}
