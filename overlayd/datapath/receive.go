package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"gridappliance/overlayd/device"
	"gridappliance/overlayd/packet"
	"gridappliance/overlayd/session"
	"gridappliance/overlayd/transport"
	"gridappliance/overlayd/vnet"
)

// Implementation: tunable at will.
const (
	receiveMessages = 32                     // messages of one receive call
	maxOpened       = 4 * packet.MaxSegments // records opened before they are delivered
)

// receiver carries records from one socket to the device. It belongs to the
// goroutine that reads the socket.
type receiver struct {
	path   *Path
	socket uint16

	// of one receive call
	table   *Table
	expired bool

	// The records of one origin that follow each other in a call, opened.
	from   origin
	peer   netip.AddrPort
	first  [session.HeaderSize]byte // of the first datagram
	opened []session.Opened

	checker session.Checker
	marker  session.Marker
	forward []transport.Message // marked anew, in the memory they came in
	via     uint16              // the socket they leave by
	join    packet.Join
	pieces  [][]byte
	head    [device.HeaderSize + device.EthernetSize]byte
}

func newReceiver(p *Path, socket uint16) *receiver {
	return &receiver{path: p, socket: socket, opened: make([]session.Opened, 0, maxOpened), pieces: make([][]byte, 0, packet.MaxSegments+1),
		forward: make([]transport.Message, 0, 2*receiveMessages)}
}

// receive reads a socket until it is closed.
func (p *Path) receive(socket uint16, conn transport.Batch) error {
	x := newReceiver(p, socket)
	messages := make([]transport.Message, receiveMessages)
	if socket != 0 {
		messages = messages[:1] // one of many that are open for a moment
	}
	for i := range messages {
		messages[i].Data = make([]byte, transport.MaxDatagram)
	}
	for {
		n, err := conn.Receive(messages)
		if errors.Is(err, transport.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read underlay: %w", err)
		}
		x.call(messages[:n])
	}
}

// call takes what one receive call has brought.
func (x *receiver) call(ms []transport.Message) {
	x.table = x.path.table.Load()
	x.expired = x.path.cfg.Clock() >= x.table.Until
	x.from = origin{} // it was of another Table
	datagrams := 0
	for i := range ms {
		datagrams += x.message(&ms[i])
	}
	x.deliver()
	x.flush()
	x.path.cfg.Count(RxDatagrams, datagrams)
}

// origin is where a record came from: the keys it is under, and the way.
type origin struct {
	keys *Opening
	way  *Way
	// of a record that came through a relay
	relay    *Relay
	relayWay *Way
	// of what this node carries on, for others; keys is nil then
	forward *Forward
}

// message takes the datagrams of one message. Records of one origin that follow
// each other, also over the message's end, are opened and then delivered
// together. It returns how many datagrams there were.
func (x *receiver) message(m *transport.Message) (datagrams int) {
	for d, rest := m.Next(m.Data); d != nil; {
		if len(x.opened) == cap(x.opened) || x.from == (origin{}) || x.peer != m.Peer || !sameOrigin(x.first[:], d, &x.from) {
			x.deliver()
			via := session.Direct(m.Peer)
			via.Socket = x.socket
			var ok bool
			if x.from, ok = x.origin(via, d); !ok {
				x.from = origin{}
				x.path.forLoop(Datagram{m.Peer, x.socket, d})
				datagrams++
				d, rest = next(m, rest)
				continue
			}
			x.peer = m.Peer
			copy(x.first[:], d)
		}
		var n int
		if x.from.forward != nil {
			d, rest, n = x.carryOn(m, d, rest)
		} else {
			d, rest, n = x.open(m, d, rest)
		}
		datagrams += n
	}
	return datagrams
}

// next is m.Next that ends with nil.
func next(m *transport.Message, rest []byte) (d, after []byte) {
	if rest == nil {
		return nil, nil
	}
	return m.Next(rest)
}

// open opens d, which is of x.from, and what follows it and is so too, under
// one lock. It returns the first that is not, and how many it took.
func (x *receiver) open(m *transport.Message, d, rest []byte) (_, _ []byte, n int) {
	from, bad := &x.from, 0
	if from.relay != nil {
		from.relay.Keys.Lock()
		defer from.relay.Keys.Unlock()
	}
	from.keys.Keys.Lock()
	defer from.keys.Keys.Unlock()
	for n == 0 || d != nil && len(x.opened) < cap(x.opened) && sameOrigin(x.first[:], d, from) {
		n++
		record, err := d, error(nil)
		if from.relay != nil {
			_, record, _, err = x.checker.Check(from.relay.Keys, d)
		}
		var o session.Opened
		if err == nil {
			o, _, err = from.keys.Keys.Open(record)
		}
		if err == nil {
			x.opened = append(x.opened, o)
		} else {
			bad++
		}
		d, rest = next(m, rest)
	}
	if bad > 0 {
		x.path.cfg.Count(DropRecord, bad)
	}
	return d, rest, n
}

// carryOn checks the marks of d and of what follows it on its channel and
// makes those of the next link, in place: a message goes out as it came in.
func (x *receiver) carryOn(m *transport.Message, d, rest []byte) (_, _ []byte, n int) {
	relay, to := x.from.relay, x.from.forward
	at := len(m.Data) - len(rest) - len(d)
	start, bad, good, bytes := at, 0, 0, 0
	relay.Keys.Lock()
	for n == 0 || d != nil && sameOrigin(x.first[:], d, &x.from) {
		n++
		_, _, _, err := x.checker.Check(relay.Keys, d)
		if err == nil {
			err = x.marker.Mark(to.To.Keys, d, to.Channel)
		}
		if err != nil { // it ends a message, and is left out
			bad++
			x.send(m, start, at)
			start = at + len(d)
		} else {
			good++
			bytes += len(d)
		}
		at += len(d)
		d, rest = next(m, rest)
	}
	relay.Keys.Unlock()
	x.send(m, start, at)
	x.from.relayWay.Heard.Add(uint64(good))
	relay.Activity.Heard(good, bytes)
	to.To.Activity.Sent(good, bytes)
	to.Carried.Datagrams.Add(uint64(good))
	to.Carried.Bytes.Add(uint64(bytes))
	if bad > 0 {
		x.path.cfg.Count(DropRecord, bad)
	}
	x.path.cfg.Count(Relayed, good)
	return d, rest, n
}

// send puts part of a message on x.forward. The memory is good until the next
// receive call, before which it is sent.
func (x *receiver) send(m *transport.Message, start, end int) {
	if start == end {
		return
	}
	via := &x.from.forward.To.Via
	if len(x.forward) == cap(x.forward) || x.via != via.Socket {
		x.flush()
	}
	x.via = via.Socket
	segment := m.Segment
	if segment == 0 {
		segment = end - start
	}
	x.forward = append(x.forward, transport.Message{Data: m.Data[start:end], Segment: segment, Peer: via.Endpoint})
}

// flush sends what is to be carried on.
func (x *receiver) flush() {
	if len(x.forward) > 0 {
		x.path.transmitted(x.via, x.forward)
		x.forward = x.forward[:0]
	}
}

// sameOrigin compares a datagram's header with another's whose origin is
// known: type, path or channel, and index of the keys, of both records if one
// carries the other.
func sameOrigin(known, d []byte, from *origin) bool {
	if len(d) < session.HeaderSize || known[0] != d[0] || known[1] != d[1] || [4]byte(known[4:8]) != [4]byte(d[4:8]) {
		return false
	}
	if from.relay == nil {
		return d[3] != 0
	}
	if from.forward != nil {
		return known[2] == d[2] && known[3] == d[3]
	}
	index, ok := session.ParseIndex(d[min(len(d), session.RelaySize):])
	return ok && known[2] == d[2] && known[3] == d[3] && index == from.keys.Keys.Index() && d[session.RelaySize+3] != 0 &&
		!session.IsRelayed(d[session.RelaySize:])
}

// origin finds what a datagram is under. False: it is the loop's, and has not
// been touched.
func (x *receiver) origin(via session.Via, d []byte) (from origin, ok bool) {
	index, ok := session.ParseIndex(d)
	if !ok {
		return from, false
	}
	record := d
	if session.IsRelayed(d) {
		if len(d) < session.RelaySize+session.Overhead {
			return from, false
		}
		if from.relay = x.table.Relays[index]; from.relay == nil {
			return from, false
		}
		if from.relayWay = find(from.relay.From, via); from.relayWay == nil {
			return from, false
		}
		channel := binary.BigEndian.Uint16(d[2:])
		if _, own := from.relay.Channels[channel]; !own {
			from.forward = from.relay.Forward[channel]
			return from, from.forward != nil
		}
		via = session.Relayed(from.relay.ID, channel)
		record = d[session.RelaySize:]
		if index, ok = session.ParseIndex(record); !ok || session.IsRelayed(record) {
			return from, false
		}
	}
	if record[3] == 0 { // the session's own
		return from, false
	}
	if from.keys = x.table.Keys[index]; from.keys == nil {
		return from, false
	}
	from.way = find(from.keys.From, via)
	return from, from.way != nil
}

func find(ways []*Way, via session.Via) *Way {
	for _, w := range ways {
		if w.Via == via {
			return w
		}
	}
	return nil
}

// deliver hands the device what is in x.opened, joined where the rules of
// package packet allow it, and empties it.
func (x *receiver) deliver() {
	if len(x.opened) == 0 {
		return
	}
	defer func() { x.opened = x.opened[:0] }()
	from := &x.from
	from.way.Heard.Add(uint64(len(x.opened)))
	bytes := 0
	for i := range x.opened {
		bytes += len(x.opened[i].Plain)
	}
	from.keys.Activity.Heard(len(x.opened), bytes)
	if from.relay != nil {
		from.relayWay.Heard.Add(uint64(len(x.opened)))
		from.relay.Activity.Heard(len(x.opened), bytes)
	}
	a := x.path.dev.Load()
	switch {
	case x.expired:
		x.path.cfg.Count(DropLease, len(x.opened))
		return
	case a == nil:
		x.path.cfg.Count(DropNoDevice, len(x.opened))
		return
	}
	offloads := a.Offloads()
	joining := false // x.join holds segments up to last
	var last session.Opened
	for _, o := range x.opened {
		if joining && o.Path == last.Path && o.Total == last.Total && o.Index == last.Index+1 && o.Index < o.Total && x.join.Add(o.Plain) {
			last = o
			continue
		}
		if joining {
			x.write(a, x.join.IP(), true)
			joining = false
		}
		ip, err := packet.Parse(o.Plain)
		segment := o.Total > 1
		switch {
		case err != nil || ip.Length != len(o.Plain):
			x.path.cfg.Count(DropFrameType, 1)
		case !slices.Contains(from.keys.Sources, ip.Src):
			if segment && ip.Plain {
				ip.Checksum(o.Plain)
			}
			x.path.packetForLoop(Packet{from.keys.ID, o.Plain})
		case !slices.Contains(x.table.Own, ip.Dst):
			x.path.cfg.Count(DropDestination, 1)
		default:
			may := x.join.Begin(o.Plain, &ip) && segment && o.Total <= packet.MaxSegments && o.Index < o.Total &&
				(ip.Protocol == packet.TCP && offloads.TCP || ip.Protocol == packet.UDP && offloads.UDP)
			if may {
				joining, last = true, o
			} else {
				x.write(a, &ip, segment)
			}
		}
	}
	if joining {
		x.write(a, x.join.IP(), true)
	}
}

// write hands the device what x.join holds. unfinished says that the checksum
// is to be made.
func (x *receiver) write(a *attached, ip *packet.IP, unfinished bool) {
	var h device.Header
	segments, size := x.join.Len(), x.join.Segment()
	parts := x.join.Parts()
	if unfinished && ip.Plain {
		if !a.Offloads().Checksum {
			ip.Checksum(parts[0])
		} else {
			parts = x.join.End()
			h = offload(ip, segments, size)
		}
	}
	h.Put(x.head[:])
	frame := vnet.AppendEthernet(x.head[:device.HeaderSize], a.hardware, parts[0])
	x.pieces = append(append(x.pieces[:0], frame), parts...)
	if _, err := a.Write(x.pieces...); err != nil {
		x.path.cfg.Count(DropUnwritten, segments)
		return
	}
	x.path.cfg.Count(TxFrames, segments)
}

// offload is the header for the kernel, all of it from what was parsed.
func offload(ip *packet.IP, segments, size int) device.Header {
	h := device.Header{
		Flags:      device.NeedsChecksum,
		CsumStart:  uint16(device.EthernetSize + ip.Header),
		CsumOffset: uint16(ip.ChecksumOffset()),
	}
	if segments == 1 {
		return h
	}
	h.HdrLen, h.GSOSize = uint16(device.EthernetSize+ip.Headers()), uint16(size)
	switch {
	case ip.Protocol == packet.UDP:
		h.GSOType = device.GSOUDP
	case ip.Is6():
		h.GSOType = device.GSOTCP6
	default:
		h.GSOType = device.GSOTCP4
	}
	return h
}
