package datapath

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"gridappliance/overlayd/device"
	"gridappliance/overlayd/packet"
	"gridappliance/overlayd/session"
	"gridappliance/overlayd/transport"
	"gridappliance/overlayd/vnet"
)

// Implementation: tunable at will.
const (
	maxFrames   = 32                        // read in one go before what was sealed is sent
	arenaSize   = 4 * transport.MaxDatagram // sealed bytes of one go
	maxMessages = 2 * maxFrames             // of one go
	// frameRoom is what one frame may need in the arena: a superpacket of 64 KiB
	// in the shortest segments that are cut, each with its headers.
	frameRoom = 2 * transport.MaxDatagram
	// minSegment is the least payload that a superpacket is cut into, whatever
	// Peer.MTU says.
	minSegment = 512
)

// transmitter carries packets from the device to the underlay. It belongs to
// the goroutine that reads the device.
type transmitter struct {
	path *Path
	dev  *attached

	// of one go
	table    *Table
	now      time.Time
	expired  bool
	frames   int
	socket   uint16
	arena    []byte
	used     int
	messages []transport.Message

	sealer session.Sealer
	marker session.Marker
	cut    packet.Cut
	answer []byte
}

func newTransmitter(p *Path, a *attached) *transmitter {
	return &transmitter{path: p, dev: a, arena: make([]byte, arenaSize), messages: make([]transport.Message, 0, maxMessages),
		answer: make([]byte, 0, device.HeaderSize+device.EthernetSize+1280)}
}

// transmit reads the device until it is closed.
func (p *Path) transmit(a *attached) error {
	x := newTransmitter(p, a)
	b := make([]byte, device.MaxRead)
	for {
		n, err := a.Read(b)
		if err == nil {
			x.begin()
			more := x.carry(b[:n])
			for more && x.frames < maxFrames && len(x.arena)-x.used >= frameRoom {
				if n, err = a.ReadNow(b); n == 0 || err != nil {
					break
				}
				more = x.carry(b[:n])
			}
			x.flush()
			p.cfg.Count(RxFrames, x.frames)
		}
		if errors.Is(err, device.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("device lost: %w", err)
		}
	}
}

// begin begins a go: what is asked once, whatever is read in it.
func (x *transmitter) begin() {
	x.table = x.path.table.Load()
	x.now = time.Now()
	x.expired = x.path.cfg.Clock() >= x.table.Until
	x.frames, x.used, x.messages = 0, 0, x.messages[:0]
}

// carry seals what the device sent. It reports whether more should be read
// before what there is is sent: not behind a superpacket, which is a go of its
// own.
func (x *transmitter) carry(b []byte) (more bool) {
	x.frames++
	h, frame, err := device.ParseHeader(b)
	if err != nil {
		x.path.cfg.Count(DropFrameShort, 1)
		return true
	}
	t := x.table
	if answer := vnet.Answer(frame, t.Pool, t.Own); answer != nil {
		x.reply(answer)
		return true
	}
	body, ok := vnet.Packet(frame)
	if !ok {
		x.path.cfg.Count(DropFrameType, 1)
		return true
	}
	ip, err := packet.Parse(body)
	switch {
	case err != nil:
		x.path.cfg.Count(DropFrameType, 1)
		return true
	case x.expired:
		x.path.cfg.Count(DropLease, 1)
		return true
	case !slices.Contains(t.Own, ip.Src):
		x.path.cfg.Count(DropSource, 1)
		return true
	}
	peer := t.To[ip.Dst]
	if peer == nil || !peer.Keys.Usable(x.now) {
		x.forLoop(body, &ip, h)
		return true
	}
	return x.toPeer(peer, body, &ip, h)
}

// toPeer seals one packet or superpacket.
func (x *transmitter) toPeer(peer *Peer, b []byte, ip *packet.IP, h device.Header) (more bool) {
	size := 0 // of segments; 0: the packet as it is
	switch {
	case h.GSOType != device.GSONone:
		if ip.Transport == 0 {
			x.path.cfg.Count(DropSuperpacket, 1)
			return true
		}
		size = max(minSegment, peer.MTU-ip.Headers())
		if ip.Protocol == packet.UDP {
			size = int(h.GSOSize)
			if size == 0 {
				x.path.cfg.Count(DropSuperpacket, 1)
				return true
			}
			if ip.Headers()+min(size, ip.Payload()) > peer.MTU {
				x.tooBig(peer, b, ip)
				return true
			}
		}
	case ip.Length <= peer.MTU:
	case ip.Plain && ip.Protocol == packet.TCP:
		size = max(minSegment, peer.MTU-ip.Headers())
	case ip.DF:
		x.tooBig(peer, b, ip)
		return true
	default: // the record's datagram will be fragmented
	}
	if size == 0 || ip.Payload() <= size {
		finish(b, ip, h)
		packet.ClampMSS(b, ip, peer.MTU)
		x.single(peer, b)
		return true
	}
	return !x.superpacket(peer, b, ip, size)
}

// finish makes the checksum that the kernel has left to the device.
func finish(b []byte, ip *packet.IP, h device.Header) {
	switch {
	case h.Flags&device.NeedsChecksum == 0:
	case ip.Transport > 0:
		ip.Checksum(b)
	default:
		packet.Complete(b, int(h.CsumStart)-device.EthernetSize, int(h.CsumOffset))
	}
}

// superpacket cuts and seals; it reports whether it could. A chunk is what one
// message holds.
func (x *transmitter) superpacket(peer *Peer, b []byte, ip *packet.IP, size int) bool {
	left := x.cut.Begin(b, ip, size)
	record := recordSize(peer, ip.Headers()+size)
	x.sealer.Use(peer.Keys, peer.Path)
	sent := 0
	for left > 0 {
		if record*2 > len(x.arena)-x.used || len(x.messages) == cap(x.messages) {
			x.flush()
		}
		total := min(left, packet.MaxSegments, transport.MaxDatagram/record, (len(x.arena)-x.used)/record)
		left -= total
		start := x.used
		for i := range total {
			s := x.cut.Next()
			at, of := i, total
			if total == 1 || !ip.Plain { // what has IP options is not joined again
				at, of = 0, 1
				one := *ip
				one.Length = len(s)
				one.Checksum(s)
			}
			if !x.seal(peer, s, at, of) {
				x.used = start
				return false
			}
		}
		x.message(peer, start, record)
		sent += total
	}
	peer.sent(sent, ip.Length)
	return true
}

// single seals a packet as it is, behind what goes the same way if it fits
// there.
func (x *transmitter) single(peer *Peer, b []byte) {
	record := recordSize(peer, len(b))
	if len(x.messages) == cap(x.messages) || record > len(x.arena)-x.used {
		x.flush()
	}
	x.sealer.Use(peer.Keys, peer.Path)
	start := x.used
	if !x.seal(peer, b, 0, 1) {
		return
	}
	peer.sent(1, len(b))
	if n := len(x.messages); n > 0 && x.socket == way(peer).Socket {
		m := &x.messages[n-1]
		if m.Peer == way(peer).Endpoint && record <= m.Segment && len(m.Data)%m.Segment == 0 &&
			len(m.Data)/m.Segment < transport.MaxSegments && len(m.Data)+record <= transport.MaxDatagram {
			m.Data = m.Data[:len(m.Data)+record] // the arena goes on behind it
			return
		}
	}
	x.message(peer, start, record)
}

// way is where a peer's datagrams go: to itself or to a relay.
func way(peer *Peer) *session.Via {
	if peer.Relay != nil {
		return &peer.Relay.Via
	}
	return &peer.Via
}

// recordSize is the length of the datagram that carries a packet of n bytes.
func recordSize(peer *Peer, n int) int {
	n += session.Overhead
	if peer.Relay != nil {
		n += session.RelaySize
	}
	return n
}

// seal puts a packet's datagram into the arena.
func (x *transmitter) seal(peer *Peer, b []byte, index, total int) bool {
	n := recordSize(peer, len(b))
	d := x.arena[x.used : x.used+n]
	record := d
	if peer.Relay != nil {
		record = d[session.RelaySize:]
	}
	err := x.sealer.SealFrom(record, b, uint8(index), uint8(total))
	if err == nil && peer.Relay != nil {
		err = x.marker.Mark(peer.Relay.Keys, d, peer.Via.Channel)
	}
	if err != nil {
		x.path.cfg.Count(DropKeys, 1)
		return false
	}
	x.used += n
	return true
}

// message makes what was sealed from start on a message, in datagrams of size
// bytes.
func (x *transmitter) message(peer *Peer, start, size int) {
	w := way(peer)
	if len(x.messages) > 0 && x.socket != w.Socket {
		kept := x.arena[start:x.used]
		x.used = start
		x.flush()
		start, x.used = 0, copy(x.arena, kept)
	}
	x.socket = w.Socket
	x.messages = append(x.messages, transport.Message{Data: x.arena[start:x.used], Segment: size, Peer: w.Endpoint})
}

// flush sends what was sealed, unless the lease has ended since: this process
// may have been stopped in the middle of a go, and read on behind the end.
func (x *transmitter) flush() {
	switch {
	case len(x.messages) == 0:
	case x.path.cfg.Clock() >= x.table.Until:
		x.path.cfg.Count(DropLease, datagramsOf(x.messages))
	default:
		x.path.transmitted(x.socket, x.messages)
	}
	x.used, x.messages = 0, x.messages[:0]
}

// tooBig tells the sender of a packet that it does not fit.
func (x *transmitter) tooBig(peer *Peer, b []byte, ip *packet.IP) {
	x.path.cfg.Count(DropTooBig, 1)
	x.answer = x.answer[:device.HeaderSize]
	clear(x.answer)
	x.answer = vnet.AppendEthernet(x.answer, x.dev.hardware, b)
	n := len(x.answer)
	if x.answer = packet.Error(x.answer, b, ip, packet.TooBig, peer.MTU); len(x.answer) > n {
		x.dev.Write(x.answer)
	}
}

// reply hands the device a frame of this machine's own making.
func (x *transmitter) reply(frame []byte) {
	x.answer = append(x.answer[:device.HeaderSize], frame...)
	clear(x.answer[:device.HeaderSize])
	x.dev.Write(x.answer)
}

// forLoop hands the loop a packet for which there is no way here, a
// superpacket in packets that go anywhere.
func (x *transmitter) forLoop(b []byte, ip *packet.IP, h device.Header) {
	if h.GSOType == device.GSONone {
		finish(b, ip, h)
		x.path.packetForLoop(Packet{Data: b})
		return
	}
	if ip.Transport == 0 || ip.Protocol == packet.UDP && h.GSOSize == 0 {
		x.path.cfg.Count(DropSuperpacket, 1)
		return
	}
	size := device.MinMTU - ip.Headers()
	if ip.Protocol == packet.UDP {
		size = int(h.GSOSize)
	}
	x.cut.Begin(b, ip, size)
	for s := x.cut.Next(); s != nil; s = x.cut.Next() {
		one := *ip
		one.Length = len(s)
		one.Checksum(s)
		x.path.packetForLoop(Packet{Data: s})
	}
}

// datagramsOf is how many messages are sent as.
func datagramsOf(ms []transport.Message) (n int) {
	for i := range ms {
		n += (len(ms[i].Data) + ms[i].Segment - 1) / ms[i].Segment
	}
	return n
}

// transmitted sends messages from a socket, if it is open still.
func (p *Path) transmitted(socket uint16, messages []transport.Message) {
	all := datagramsOf(messages)
	refused := all
	if conn := p.sending(socket); conn != nil {
		refused, _ = conn.Transmit(messages)
	}
	if refused > 0 {
		p.cfg.Count(DropUnsent, refused)
	}
	p.cfg.Count(TxDatagrams, all-refused)
}
