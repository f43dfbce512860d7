package node

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"gridappliance/overlayd/bootstrap"
	"gridappliance/overlayd/core"
	"gridappliance/overlayd/datapath"
	"gridappliance/overlayd/discover"
	"gridappliance/overlayd/link"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/portmap"
	"gridappliance/overlayd/session"
	"gridappliance/overlayd/stream"
	"gridappliance/overlayd/underlay"
	"gridappliance/overlayd/wire"
)

// underlayPause is how often the underlay is looked at when nothing tells of
// changes, or does not tell of this one.
const underlayPause = 5 * time.Second

// peersFile is the file of the peers of before, in the state folder.
const peersFile = "peers.json"

// outside is how this node is connected and how it finds others. The loop owns
// it, but table and streams, which are safe for concurrent use.
type outside struct {
	look    time.Time // next
	state   underlay.State
	mapped  []netip.AddrPort
	known   bool // core has been told
	table   bootstrap.Table
	finder  *discover.Finder
	streams *stream.Streams // nil: no TCP
	mapper  *portmap.Mapper // nil: no port mapping
	found   []discover.Found
}

// openOutside starts what finds first contacts.
func (n *Node) openOutside(running context.Context) error {
	o, local := &n.outside, n.path.Local()
	var dial *stream.Streams
	if n.cfg.TCP || n.cfg.ListenTCP.IsValid() {
		o.streams = stream.New()
		n.readers.Go(func() { n.readStreams(running) })
		n.readers.Go(func() { <-running.Done(); o.streams.Close() })
		if n.cfg.TCP {
			dial = o.streams
		}
	}
	if n.cfg.ListenTCP.IsValid() {
		l, err := stream.Listen(n.cfg.ListenTCP)
		if err != nil {
			return fmt.Errorf("listen on TCP: %w", err)
		}
		n.readers.Go(func() { n.fail(o.streams.Serve(l)) })
		n.log.Info("listening on TCP", "endpoint", l.Addr())
	}
	if n.cfg.MapPort {
		o.mapper = portmap.New(local.Port(), n.log, func(m portmap.Mapping) {
			n.inLoop(running, func(now time.Time) { n.portMapped(now, m) })
		})
		n.readers.Go(func() { o.mapper.Run(running) })
	}
	resolver := n.cfg.Resolver
	if resolver == nil {
		resolver = net.DefaultResolver
	}
	o.finder = discover.New(discover.Config{ID: n.id, Tags: n.tags(), Names: n.names(), Listen: local,
		Memory: filepath.Join(n.cfg.StateDir, peersFile), Streams: dial, LAN: n.cfg.LAN, Resolver: resolver, Table: &o.table, Log: n.log})
	n.readers.Go(func() { o.finder.Run(running) })
	n.readers.Go(func() {
		for {
			select {
			case a := <-o.finder.Actions():
				n.inLoop(running, func(now time.Time) { n.found(now, a) })
			case <-running.Done():
				return
			}
		}
	})
	if n.cfg.Watch != nil {
		wait, err := n.cfg.Watch(running, func() { n.inLoop(running, n.lookAtUnderlay) })
		if err != nil {
			n.log.Warn("changes of the underlay are noticed late", "after", underlayPause, "err", err)
		} else {
			n.readers.Go(wait)
		}
	}
	return nil
}

// lookAtUnderlay tells what has changed of this machine's addresses.
func (n *Node) lookAtUnderlay(now time.Time) {
	o := &n.outside
	o.look = now.Add(underlayPause)
	s, err := n.cfg.Look(n.cfg.Device)
	if err != nil {
		n.log.Warn("the underlay's addresses are not known", "err", err)
		return
	}
	if o.known && s.Equal(o.state) {
		return
	}
	o.state, o.known = s, true
	o.finder.Tell(discover.Network{State: s})
	if o.mapper != nil {
		var g portmap.Gateway
		if len(s.Gateways) > 0 {
			g = portmap.Gateway{Via: s.Gateways[0].Via, Source: s.Gateways[0].Source}
		}
		o.mapper.Update(g)
	}
	n.tellAddresses(now)
}

// portMapped takes a port mapping, or its loss.
func (n *Node) portMapped(now time.Time, m portmap.Mapping) {
	n.outside.mapped = nil
	if m.External.IsValid() {
		n.outside.mapped = []netip.AddrPort{m.External}
	}
	n.tellAddresses(now)
}

func (n *Node) tellAddresses(now time.Time) {
	o := &n.outside
	e := core.Addresses{Host: o.state.Host(n.path.Local()), Attached: o.state.Attached(), Mapped: o.mapped}
	for _, s := range n.identity.Descriptor.Namespaces {
		e.Pools = append(e.Pools, s.Pool)
	}
	n.handle(now, e)
}

// names are the first contacts that descriptor and floppy name.
func (n *Node) names() (out []discover.Name) {
	for _, text := range n.cfg.Floppy.Config.Network.Bootstrap {
		out = append(out, discover.Name{Text: text, Source: discover.FromFloppy})
	}
	for _, text := range n.identity.Descriptor.Bootstrap {
		out = append(out, discover.Name{Text: text, Source: discover.FromDescriptor})
	}
	return out
}

// tags are those that this node enrols under.
func (n *Node) tags() (out []bootstrap.Tag) {
	for _, r := range n.roots() {
		out = append(out, bootstrap.TagOf(r))
	}
	return out
}

// renamed follows a new descriptor.
func (n *Node) renamed() {
	n.outside.finder.Tell(discover.Named{Names: n.names(), Tags: n.tags()})
}

// found does what the Finder wants.
func (n *Node) found(now time.Time, a discover.Action) {
	switch a := a.(type) {
	case discover.Contacts:
		n.outside.found = a.List
		list := make([]wire.Contact, len(a.List))
		for i, c := range a.List {
			list[i] = c.Contact
		}
		n.handle(now, core.Start{Contacts: list})
	case discover.Send:
		n.send(a.To, 0, a.Data)
	case discover.Observed:
		n.handle(now, core.Observed(a))
	case discover.Places:
		n.handle(now, core.Places(a))
	}
}

// connected tells the Finder of a connection, and of where it was reached.
func (n *Node) connected(id nodeid.ID, state link.State) {
	n.outside.finder.Tell(discover.Path{ID: id, State: state})
	if s, ok := n.links.Snapshot(id, session.LinkPurpose); ok && state == link.Direct && s.Session.Node() != nil {
		n.outside.finder.Tell(discover.Peer{Contact: wire.Contact{ID: id, Holder: wire.Holder(s.Session.Node().Holder.Key[:8]), Endpoints: []netip.AddrPort{s.Via.Endpoint}}})
	}
}

// send sends a datagram to an endpoint of the underlay, or to what a virtual
// one stands for.
func (n *Node) send(to netip.AddrPort, socket uint16, data []byte) {
	if session.VirtualKind(to.Addr()) != session.NotVirtual {
		socket = 0
		if at, wrapped, ok := n.outside.table.Wrap(nil, data, to); ok {
			to, data = at, wrapped
		}
	}
	switch {
	case session.VirtualKind(to.Addr()) == session.NotVirtual:
		n.path.Send(to, socket, data)
	case n.outside.streams != nil:
		n.outside.streams.WriteTo(data, to) // what does not fit its queue is lost
	}
}

// arrived takes a datagram from the underlay or a TCP connection. Data is kept
// by nobody, but may be written to.
func (n *Node) arrived(now time.Time, from netip.AddrPort, socket uint16, data []byte) {
	switch {
	case session.Ours(data):
		n.handle(now, core.Datagram{From: from, Socket: socket, Data: data})
	case bootstrap.Ours(data):
		if member, carried, ok := n.outside.table.Unwrap(data, from); ok {
			n.handle(now, core.Datagram{From: member, Data: carried})
			return
		}
		n.outside.finder.Tell(discover.Datagram{From: from, Data: slices.Clone(data)})
	case !bootstrap.IsSTUN(data):
		n.counters.drop(dropForeign)
	default:
		answer, reason := bootstrap.AnswerSTUN(data, from)
		if reason != bootstrap.NoDrop {
			n.counters.drop(DropReason("drop/" + reason.String()))
			return
		}
		n.send(from, socket, answer)
		n.counters.count(countSTUN)
	}
}

// datagram takes one of the underlay's.
func (n *Node) datagram(now time.Time, d datapath.Datagram) {
	if session.VirtualKind(d.From.Addr()) != session.NotVirtual {
		n.counters.drop(dropForged)
		return
	}
	n.arrived(now, d.From, d.Socket, d.Data)
}

// readStreams gives the loop what comes over TCP.
func (n *Node) readStreams(running context.Context) {
	for {
		b := make([]byte, stream.MaxDatagram)
		k, from, err := n.outside.streams.ReadFrom(b)
		if err != nil {
			return
		}
		n.inLoop(running, func(now time.Time) {
			n.arrived(now, from, 0, b[:k])
			n.drain(now)
		})
	}
}
