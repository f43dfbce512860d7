package datapath

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"gridappliance/overlayd/device"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/packet"
	"gridappliance/overlayd/session"
	"gridappliance/overlayd/transport"
	"gridappliance/overlayd/vnet"
)

// wire is a Batch that keeps what is transmitted.
type wire struct {
	local netip.AddrPort
	sent  []transport.Message
	bytes []byte // of sent: reused, so that a test may count allocations
}

func (w *wire) Transmit(ms []transport.Message) (int, error) {
	for _, m := range ms {
		start := len(w.bytes)
		w.bytes = append(w.bytes, m.Data...)
		m.Data = w.bytes[start:]
		w.sent = append(w.sent, m)
	}
	return 0, nil
}

func (w *wire) reset()                                   { w.sent, w.bytes = w.sent[:0], w.bytes[:0] }
func (w *wire) Receive([]transport.Message) (int, error) { return 0, transport.ErrClosed }
func (w *wire) ReadFrom([]byte) (int, netip.AddrPort, error) {
	return 0, netip.AddrPort{}, transport.ErrClosed
}
func (w *wire) WriteTo([]byte, netip.AddrPort) error { return nil }
func (w *wire) LocalAddr() netip.AddrPort            { return w.local }
func (w *wire) Close() error                         { return nil }

// screen is a Device that keeps what is written.
type screen struct {
	offloads device.Offloads
	written  [][]byte
	arena    []byte
}

func (s *screen) Write(pieces ...[]byte) (int, error) {
	start := len(s.arena)
	for _, p := range pieces {
		s.arena = append(s.arena, p...)
	}
	s.written = append(s.written, s.arena[start:])
	return len(s.arena) - start, nil
}

func (s *screen) reset()                      { s.written, s.arena = s.written[:0], s.arena[:0] }
func (s *screen) Name() string                { return "screen" }
func (s *screen) Read([]byte) (int, error)    { return 0, device.ErrClosed }
func (s *screen) ReadNow([]byte) (int, error) { return 0, device.ErrClosed }
func (s *screen) Offloads() device.Offloads   { return s.offloads }
func (s *screen) Close() error                { return nil }

var (
	atA      = netip.MustParseAddrPort("192.0.2.1:4242")
	atB      = netip.MustParseAddrPort("192.0.2.2:4242")
	atRelay  = netip.MustParseAddrPort("192.0.2.9:4242")
	idA, idB = nodeid.ID{1}, nodeid.ID{2}
	idRelay  = nodeid.ID{9}
	all      = device.Offloads{Checksum: true, TCP: true, UDP: true}
)

// bench is two ends without goroutines: what a transmits, b is given.
type bench struct {
	t      testing.TB
	a, b   *end
	wire   *wire
	screen *screen // b's device
	self   *screen // a's
	tx     *transmitter
	rx     *receiver
}

func newBench(t testing.TB, offloads device.Offloads, relayed bool) *bench {
	x := &bench{t: t, wire: &wire{local: atA}, screen: &screen{offloads: offloads}, self: &screen{offloads: all}}
	x.a = &end{id: idA, at: atA, own: []netip.Addr{addrA, addrA6}, mac: [6]byte{2, 0, 0, 0, 0, 1}}
	x.b = &end{id: idB, at: atB, own: []netip.Addr{addrB, addrB6}, mac: [6]byte{2, 0, 0, 0, 0, 2}}
	ka, kb := handshake(t, idA, idB, "one", true)
	ta, tb := x.a.tableOf(x.b, ka), x.b.tableOf(x.a, kb)
	if relayed {
		// The relay in between is left out: a's mark is made under the keys that
		// b shares with it.
		la, lb := handshake(t, idRelay, idB, session.LinkPurpose, true)
		r := &Relay{ID: idRelay, Keys: la, Via: session.Direct(atB), Activity: new(Activity)}
		for _, p := range ta.To {
			p.Relay, p.Via, p.Path = r, session.Relayed(idRelay, 7), 1
		}
		tb.Relays = map[uint32]*Relay{lb.Index(): {ID: idRelay, Keys: lb, From: []*Way{{Via: session.Direct(atA)}},
			Channels: map[uint16]nodeid.ID{7: idA}, Activity: new(Activity)}}
		tb.Keys[kb.Index()].From = []*Way{{Via: session.Relayed(idRelay, 7)}}
	}
	for _, e := range []*end{x.a, x.b} {
		e.Path = &Path{cfg: Config{Clock: uptime, Count: e.counts.add}, datagrams: make(chan Datagram, 100), packets: make(chan Packet, 200),
			sockets: map[uint16]transport.Batch{}}
	}
	x.a.sockets[0] = x.wire
	x.a.Publish(ta)
	x.b.Publish(tb)
	x.b.dev.Store(&attached{Device: x.screen, hardware: x.b.mac})
	x.tx = newTransmitter(x.a.Path, &attached{Device: x.self, hardware: x.a.mac})
	x.rx = newReceiver(x.b.Path, 0)
	return x
}

// send gives a's transmitter a frame as the kernel does.
func (x *bench) send(h device.Header, p []byte) {
	b := make([]byte, device.HeaderSize, device.MaxRead)
	h.Put(b)
	b = append(vnet.AppendEthernet(b, vnet.Neighbour, p), p...)
	x.tx.begin()
	x.tx.carry(b)
	x.tx.flush()
}

// receive gives b's receiver messages as if from an endpoint.
func (x *bench) receive(from netip.AddrPort, ms ...transport.Message) {
	for i := range ms {
		ms[i].Peer = from
	}
	x.rx.call(ms)
}

// across is send and receive.
func (x *bench) across(h device.Header, p []byte) {
	x.wire.reset()
	x.send(h, p)
	x.receive(atA, x.wire.sent...)
}

// frames are what b's machine was given: headers, packets.
func (x *bench) frames() (hs []device.Header, packets [][]byte) {
	for _, b := range x.screen.written {
		h, f, err := device.ParseHeader(b)
		if err != nil || [6]byte(f) != x.b.mac {
			x.t.Fatalf("frame %x, %v", b, err)
		}
		hs, packets = append(hs, h), append(packets, f[device.EthernetSize:])
	}
	return hs, packets
}

// tcp returns a TCP packet, or superpacket, with the kernel's header for it.
func tcp(from, to netip.Addr, payload, mss int) (device.Header, []byte) {
	b := make([]byte, 0, 70000)
	length := 20 + payload
	if from.Is4() {
		b = append(b, 0x45, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(20+length))
		b = append(b, 0, 9, 0x40, 0, 64, packet.TCP, 0, 0)
	} else {
		b = append(b, 0x60, 0, 0, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(length))
		b = append(b, packet.TCP, 64)
	}
	b = append(append(b, from.AsSlice()...), to.AsSlice()...)
	at := len(b)
	if from.Is4() {
		headerSum(b)
	}
	b = append(b, 0x10, 1, 0x20, 2, 0, 0, 1, 0, 0, 0, 2, 0, 5<<4, 0x18, 1, 0, 0, 0, 0, 0)
	for i := range payload {
		b = append(b, byte(i*7))
	}
	return kernelHeader(b, at, packet.TCP, payload, mss)
}

// headerSum makes the checksum of an IPv4 header (RFC 791 §3.1).
func headerSum(b []byte) {
	b[10], b[11] = 0, 0
	sum := uint32(0)
	for i := 0; i < int(b[0]&15)*4; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(b[10:], ^uint16(sum))
}

func udp(from, to netip.Addr, payload, size int) (device.Header, []byte) {
	_, b := tcp(from, to, payload, 0)
	at := 20
	if from.Is6() {
		at = 40
		b[6] = packet.UDP
		binary.BigEndian.PutUint16(b[4:], uint16(8+payload))
	} else {
		b[9] = packet.UDP
		binary.BigEndian.PutUint16(b[2:], uint16(28+payload))
	}
	b = append(b[:at], append([]byte{0x10, 1, 0x20, 2, byte((8 + payload) >> 8), byte(8 + payload), 0, 0}, b[at+20:]...)...)
	return kernelHeader(b, at, packet.UDP, payload, size)
}

// kernelHeader leaves checksum and cutting of b to the device.
func kernelHeader(b []byte, at int, protocol uint8, payload, size int) (device.Header, []byte) {
	p, err := packet.Parse(b)
	if err != nil || !p.Plain {
		panic("no packet")
	}
	if p.Src.Is4() {
		b[10], b[11] = 0, 0
		var s uint32
		for i := 0; i < 20; i += 2 {
			s += uint32(binary.BigEndian.Uint16(b[i:]))
		}
		binary.BigEndian.PutUint16(b[10:], ^uint16(s+s>>16))
	}
	p.Partial(b)
	h := device.Header{Flags: device.NeedsChecksum, CsumStart: uint16(device.EthernetSize + at), CsumOffset: uint16(p.ChecksumOffset())}
	if size > 0 && payload > size {
		h.HdrLen, h.GSOSize = uint16(device.EthernetSize+p.Headers()), uint16(size)
		switch {
		case protocol == packet.UDP:
			h.GSOType = device.GSOUDP
		case p.Is6():
			h.GSOType = device.GSOTCP6
		default:
			h.GSOType = device.GSOTCP4
		}
	}
	return h, b
}

// TestSuperpacketsAcross: what the kernel gave away in one piece, the other
// kernel gets in one piece, with the same header, over each kind of path.
func TestSuperpacketsAcross(t *testing.T) {
	for _, relayed := range []bool{false, true} {
		for _, c := range []struct {
			name     string
			make     func() (device.Header, []byte)
			segment  int // GSOSize that b's kernel sees
			messages int
		}{
			{"TCP", func() (device.Header, []byte) { return tcp(addrA, addrB, 50000, 1240) }, 1240, 1},
			{"TCP over IPv6", func() (device.Header, []byte) { return tcp(addrA6, addrB6, 50000, 1220) }, 1220, 1},
			{"TCP in small segments", func() (device.Header, []byte) { return tcp(addrA, addrB, 50000, 536) }, 1240, 1},
			{"UDP", func() (device.Header, []byte) { return udp(addrA, addrB, 40000, 1000) }, 1000, 1},
			{"UDP over IPv6", func() (device.Header, []byte) { return udp(addrA6, addrB6, 40001, 1000) }, 1000, 1},
		} {
			name := c.name + ", direct"
			if relayed {
				name = c.name + ", relayed"
			}
			t.Run(name, func(t *testing.T) {
				x := newBench(t, all, relayed)
				h, p := c.make()
				want := bytes.Clone(p)
				x.across(h, p)
				hs, got := x.frames()
				if len(x.wire.sent) != c.messages || len(got) != 1 {
					t.Fatalf("%d messages, %d frames; counted %v and %v", len(x.wire.sent), len(got), x.a.counts.all(), x.b.counts.all())
				}
				h.GSOSize = uint16(c.segment)
				if hs[0] != h {
					t.Errorf("header %+v, want %+v", hs[0], h)
				}
				if !bytes.Equal(got[0], want) {
					t.Errorf("the packet differs:\n%x\n%x", got[0][:60], want[:60])
				}
			})
		}
	}
}

// TestLongestSuperpacket does not fit one message and is joined in two pieces.
func TestLongestSuperpacket(t *testing.T) {
	x := newBench(t, all, false)
	h, p := tcp(addrA, addrB, 65000, 1240)
	_, want := tcp(addrA, addrB, 65000, 1240)
	x.across(h, p)
	hs, got := x.frames()
	if len(x.wire.sent) != 2 || len(got) != 2 || hs[0].GSOSize != 1240 {
		t.Fatalf("%d messages, %d frames", len(x.wire.sent), len(got))
	}
	if payload := append(bytes.Clone(got[0][40:]), got[1][40:]...); !bytes.Equal(payload, want[40:]) {
		t.Error("the payload differs")
	}
	for _, m := range x.wire.sent {
		if len(m.Data) > transport.MaxDatagram || len(m.Data) > m.Segment*transport.MaxSegments {
			t.Errorf("a message of %d bytes in segments of %d", len(m.Data), m.Segment)
		}
	}
}

// TestOneLeftOver: the last segment of a superpacket may have a message to
// itself. It is a packet like any other then, and has its checksum.
func TestOneLeftOver(t *testing.T) {
	x := newBench(t, device.Offloads{}, false)
	x.across(tcp(addrA, addrB, 50*1240+7, 1240))
	if len(x.wire.sent) != 2 || len(x.wire.sent[1].Data) != session.Overhead+47 {
		t.Fatalf("%d messages, want 2 and one datagram in the second", len(x.wire.sent))
	}
	_, got := x.frames()
	if len(got) != 51 {
		t.Fatalf("%d frames", len(got))
	}
	for i, b := range got {
		p, err := packet.Parse(b)
		right := bytes.Clone(b)
		p.Checksum(right)
		if err != nil || !bytes.Equal(b, right) {
			t.Errorf("frame %d: checksum wrong", i)
		}
	}
}

// TestWithoutOffloads: a device that takes no superpacket gets packets with
// right checksums.
func TestWithoutOffloads(t *testing.T) {
	for _, c := range []struct {
		name string
		make func() (device.Header, []byte)
		n    int
	}{
		{"TCP", func() (device.Header, []byte) { return tcp(addrA, addrB, 10000, 1240) }, 9},
		{"UDP over IPv6", func() (device.Header, []byte) { return udp(addrA6, addrB6, 10000, 1000) }, 10},
		{"a single packet", func() (device.Header, []byte) { return udp(addrA, addrB, 900, 0) }, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newBench(t, device.Offloads{}, false)
			x.across(c.make())
			hs, got := x.frames()
			if len(got) != c.n {
				t.Fatalf("%d frames, want %d", len(got), c.n)
			}
			for i, b := range got {
				p, err := packet.Parse(b)
				right := bytes.Clone(b)
				p.Checksum(right)
				if err != nil || hs[i] != (device.Header{}) || !bytes.Equal(b, right) {
					t.Errorf("frame %d: header %+v, checksum wrong: %v", i, hs[i], !bytes.Equal(b, right))
				}
			}
		})
	}
}

// TestSmallPacketsShareAMessage: packets of one length for one peer go out
// in one call, and single.
func TestSmallPacketsShareAMessage(t *testing.T) {
	x := newBench(t, all, false)
	x.tx.begin()
	for i := range 20 {
		n := 100
		if i == 9 {
			n = 40 // a shorter one ends a message
		}
		h, p := udp(addrA, addrB, n, 0)
		b := make([]byte, device.HeaderSize, 2000)
		h.Put(b)
		if !x.tx.carry(append(vnet.AppendEthernet(b, vnet.Neighbour, p), p...)) {
			t.Fatal("a small packet ended the go")
		}
	}
	x.tx.flush()
	if len(x.wire.sent) != 2 {
		t.Fatalf("%d messages, want 2: ten datagrams each", len(x.wire.sent))
	}
	x.receive(atA, x.wire.sent...)
	if _, got := x.frames(); len(got) != 20 {
		t.Errorf("%d packets arrived", len(got))
	}
}

// TestCarryOn: a relay sends a superpacket on as it came, marked anew, without
// what was marked wrongly or came twice, and tells the loop's datagrams apart.
func TestCarryOn(t *testing.T) {
	x := newBench(t, all, false)
	// a ── channel 3 ──> relay ── channel 8 ──> b
	la, ra := handshake(t, idA, idRelay, session.LinkPurpose, true)
	rb, lb := handshake(t, idRelay, idB, session.LinkPurpose, true)
	for _, p := range x.a.table.Load().To {
		p.Relay, p.Via, p.Path = &Relay{ID: idRelay, Keys: la, Via: session.Direct(atRelay), Activity: new(Activity)}, session.Relayed(idRelay, 3), 1
	}
	tb := x.b.table.Load()
	tb.Relays = map[uint32]*Relay{lb.Index(): {ID: idRelay, Keys: lb, From: []*Way{{Via: session.Direct(atRelay)}},
		Channels: map[uint16]nodeid.ID{8: idA}, Activity: new(Activity)}}
	for _, o := range tb.Keys {
		o.From = []*Way{{Via: session.Relayed(idRelay, 8)}}
	}
	relay := &end{id: idRelay, at: atRelay}
	out := &wire{local: atRelay}
	relay.Path = &Path{cfg: Config{Clock: uptime, Count: relay.counts.add}, datagrams: make(chan Datagram, 100), sockets: map[uint16]transport.Batch{0: out}}
	toB := &Relay{ID: idB, Keys: rb, Via: session.Direct(atB), Activity: new(Activity)}
	forward := &Forward{To: toB, Channel: 8, Carried: new(Carried)}
	relay.Publish(&Table{Relays: map[uint32]*Relay{ra.Index(): {ID: idA, Keys: ra, From: []*Way{{Via: session.Direct(atA)}},
		Forward: map[uint16]*Forward{3: forward}, Activity: new(Activity)}}})
	rx := newReceiver(relay.Path, 0)

	h, p := tcp(addrA, addrB, 40000, 1240)
	want := bytes.Clone(p)
	x.send(h, p)
	m := x.wire.sent[0]
	m.Peer = atA
	again := bytes.Clone(m.Data)
	datagrams := len(m.Data) / m.Segment
	rx.call([]transport.Message{m})
	if len(out.sent) != 1 || out.sent[0].Segment != m.Segment || len(out.sent[0].Data) != len(m.Data) || out.sent[0].Peer != atB {
		t.Fatalf("%d messages; counted %v", len(out.sent), relay.counts.all())
	}
	x.receive(atRelay, out.sent...)
	hs, got := x.frames()
	if len(got) != 1 || hs[0] != h || !bytes.Equal(got[0], want) {
		t.Fatalf("%d frames arrived; counted %v", len(got), x.b.counts.all())
	}
	if n := int(forward.Carried.Datagrams.Load()); n != datagrams+1 || relay.counts.get(Relayed) != n {
		t.Errorf("%d datagrams carried, %d counted, want %d", n, relay.counts.get(Relayed), datagrams+1)
	}

	out.reset()
	rx.call([]transport.Message{{Data: again, Segment: m.Segment, Peer: atA}})
	if len(out.sent) != 0 || relay.counts.get(DropRecord) != datagrams+1 {
		t.Errorf("the same again: %d messages; counted %v", len(out.sent), relay.counts.all())
	}

	x.wire.reset()
	x.send(tcp(addrA, addrB, 6000, 1240))
	m = x.wire.sent[0]
	m.Peer = atA
	m.Data[2*m.Segment+100] ^= 1
	rx.call([]transport.Message{m})
	if len(out.sent) != 2 || len(out.sent[0].Data) != 2*m.Segment || len(out.sent[1].Data) != len(m.Data)-3*m.Segment {
		t.Errorf("one spoilt: %d messages; counted %v", len(out.sent), relay.counts.all())
	}

	x.wire.reset()
	out.reset()
	x.send(udp(addrA, addrB, 100, 0))
	other := bytes.Clone(x.wire.sent[0].Data)
	other[3]++ // another channel
	rx.call([]transport.Message{{Data: other, Peer: atA}, {Data: bytes.Clone(x.wire.sent[0].Data), Peer: atB}})
	if len(out.sent) != 0 || len(relay.datagrams) != 2 {
		t.Errorf("another channel, another way: %d messages, %d for the loop", len(out.sent), len(relay.datagrams))
	}
}

// TestPartsOfASuperpacket: what is missing, doubled or in another order is not
// joined over; nothing waits.
func TestPartsOfASuperpacket(t *testing.T) {
	for _, c := range []struct {
		name  string
		order func(segments [][]byte) [][]byte
		want  []int // payload bytes of each frame
	}{
		{"all", func(s [][]byte) [][]byte { return s }, []int{6000}},
		{"the third is lost", func(s [][]byte) [][]byte { return slices.Delete(s, 2, 3) }, []int{2480, 2280}},
		{"the first is lost", func(s [][]byte) [][]byte { return s[1:] }, []int{4760}},
		{"the last is lost", func(s [][]byte) [][]byte { return s[:4] }, []int{4960}},
		{"two in another order", func(s [][]byte) [][]byte { s[1], s[2] = s[2], s[1]; return s }, []int{1240, 1240, 1240, 2280}},
		{"one comes twice", func(s [][]byte) [][]byte { return slices.Insert(s, 1, bytes.Clone(s[0])) }, []int{6000}},
		{"one is spoilt", func(s [][]byte) [][]byte { s[2][40] ^= 1; return s }, []int{2480, 2280}},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newBench(t, all, false)
			x.wire.reset()
			x.send(tcp(addrA, addrB, 6000, 1240))
			var segments [][]byte
			for d, rest := x.wire.sent[0].Next(x.wire.sent[0].Data); d != nil; d, rest = next(&x.wire.sent[0], rest) {
				segments = append(segments, bytes.Clone(d))
			}
			m := transport.Message{Segment: x.wire.sent[0].Segment, Data: bytes.Join(c.order(segments), nil)}
			x.receive(atA, m)
			_, got := x.frames()
			var lengths []int
			for _, p := range got {
				lengths = append(lengths, len(p)-40)
			}
			if !slices.Equal(lengths, c.want) {
				t.Errorf("frames with %v bytes of payload, want %v; counted %v", lengths, c.want, x.b.counts.all())
			}
		})
	}
}

// TestDatagramsSingly: a kernel that does not group datagrams gives each as a
// message; those of one receive call are joined all the same, those of two not.
func TestDatagramsSingly(t *testing.T) {
	x := newBench(t, all, false)
	x.send(tcp(addrA, addrB, 6000, 1240))
	var ms []transport.Message
	for d, rest := x.wire.sent[0].Next(x.wire.sent[0].Data); d != nil; d, rest = next(&x.wire.sent[0], rest) {
		ms = append(ms, transport.Message{Data: d})
	}
	x.receive(atA, ms[:3]...)
	x.receive(atA, ms[3:]...)
	_, got := x.frames()
	if len(got) != 2 || len(got[0]) != 40+3*1240 || len(got[1]) != 40+6000-3*1240 {
		t.Errorf("%d frames, counted %v", len(got), x.b.counts.all())
	}
	// Another's datagram in between ends the run.
	x.screen.reset()
	x.wire.reset()
	x.send(tcp(addrA, addrB, 2400, 1200))
	ms = ms[:0]
	for d, rest := x.wire.sent[0].Next(x.wire.sent[0].Data); d != nil; d, rest = next(&x.wire.sent[0], rest) {
		ms = append(ms, transport.Message{Data: d, Peer: atA})
	}
	x.rx.call([]transport.Message{ms[0], {Data: []byte("hello"), Peer: atRelay}, ms[1]})
	if _, got := x.frames(); len(got) != 2 || len(x.b.datagrams) != 1 {
		t.Errorf("%d frames, %d datagrams for the loop", len(got), len(x.b.datagrams))
	}
}

// TestHostileSuperpackets: a peer says total and index as it likes and puts
// what it likes behind them; no packet from an address that is not its own
// gets through, and no header for the kernel is one that it chose.
func TestHostileSuperpackets(t *testing.T) {
	_, first := tcp(addrA, addrB, 900, 0)
	forged := func(change func(b []byte)) []byte {
		b := bytes.Clone(first)
		b[25] += 3 // the sequence of what follows: 900 = 3*256+132
		b[26] += 0
		binary.BigEndian.PutUint32(b[24:], binary.BigEndian.Uint32(first[24:])+900)
		binary.BigEndian.PutUint16(b[4:], binary.BigEndian.Uint16(first[4:])+1)
		change(b)
		headerSum(b)
		return b
	}
	wrong := forged(func([]byte) {})
	wrong[10] ^= 2
	plain := bytes.Clone(first)
	plain[33] &^= 8 // PSH ends a superpacket
	for _, c := range []struct {
		name    string
		second  []byte
		total   uint8
		frames  int
		joined  bool
		loop    int // packets for the loop: their source is not known
		dropped Counter
	}{
		{"an honest second", forged(func([]byte) {}), 2, 1, true, 0, ""},
		{"another's source", forged(func(b []byte) { copy(b[12:], addrC.AsSlice()) }), 2, 1, false, 1, ""},
		{"this node's own source", forged(func(b []byte) { copy(b[12:], addrB.AsSlice()) }), 2, 1, false, 1, ""},
		{"to another", forged(func(b []byte) { copy(b[16:], addrC.AsSlice()) }), 2, 1, false, 0, DropDestination},
		{"IPv4 options", forged(func(b []byte) { b[0] = 0x46 }), 2, 2, false, 0, ""},
		{"a wrong header checksum", wrong, 2, 2, false, 0, ""},
		{"a fragment", forged(func(b []byte) { b[6] = 0x20 }), 2, 2, false, 0, ""},
		{"other flags", forged(func(b []byte) { b[33] |= 4 }), 2, 2, false, 0, ""},
		{"another sequence", forged(func(b []byte) { b[27]++ }), 2, 2, false, 0, ""},
		{"a length that is a lie", forged(func(b []byte) { b[3]-- }), 2, 1, false, 0, DropFrameType},
		{"no packet", []byte{0x45}, 2, 1, false, 0, DropFrameType},
		{"nothing", nil, 2, 1, false, 0, DropFrameType},
		{"total 1", forged(func([]byte) {}), 1, 2, false, 0, ""},
		{"total 255", forged(func([]byte) {}), 255, 2, false, 0, ""},
		{"an index beyond total", forged(func([]byte) {}), 3, 2, false, 0, ""},
		{"another path", forged(func([]byte) {}), 4, 2, false, 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newBench(t, all, false)
			sealer := x.a.table.Load().To[addrB].Keys.Sealer(0)
			for i, p := range [][]byte{plain, c.second} {
				b := make([]byte, session.Overhead+len(p))
				index := uint8(i)
				switch c.name {
				case "an index beyond total":
					index += 2
				case "another path":
					sealer.Use(x.a.table.Load().To[addrB].Keys, index)
				}
				if err := sealer.SealFrom(b, p, index, c.total); err != nil {
					t.Fatal(err)
				}
				x.wire.Transmit([]transport.Message{{Data: b}})
			}
			m := transport.Message{Data: x.wire.bytes, Segment: len(x.wire.sent[0].Data)}
			x.receive(atA, m)
			hs, got := x.frames()
			if len(got) != c.frames || len(x.b.packets) != c.loop || c.dropped != "" && x.b.counts.get(c.dropped) != 1 {
				t.Fatalf("%d frames, %d packets for the loop; counted %v", len(got), len(x.b.packets), x.b.counts.all())
			}
			for i, h := range hs {
				if (h.GSOType != device.GSONone) != c.joined || c.joined && h.GSOSize != 900 {
					t.Errorf("frame %d: %+v, want joined: %v", i, h, c.joined)
				}
				if p, _ := packet.Parse(got[i]); p.Src != addrA || p.Dst != addrB {
					t.Errorf("frame %d from %s to %s", i, p.Src, p.Dst)
				}
			}
		})
	}
}

// FuzzReceive seals what a fuzzer makes of superpackets, with the index and
// total it likes, in one receive call. What the device is given, split in
// software by the header that came with it, is exactly the packets that may
// pass, in their order.
func FuzzReceive(f *testing.F) {
	f.Add([]byte{0, 5, 200, 0, 0, 0, 5, 0, 1, 9, 100, 0, 0, 0, 9, 0})
	f.Add([]byte{4, 9, 100, 14, 6, 0, 9, 0, 2, 30, 50, 0, 0, 0, 30, 1, 8, 9, 100, 0, 0, 2, 9, 0})
	f.Add([]byte{5, 9, 100, 30, 6, 0, 200, 0, 7, 64, 10, 44, 1, 0, 64, 0})
	f.Add([]byte{4, 9, 0, 10, 6, 0, 9, 0}) // a wrong header checksum in the middle
	x := newBench(f, all, false)
	f.Fuzz(func(t *testing.T, script []byte) {
		x.t = t
		x.screen.reset()
		sealer := x.a.table.Load().To[addrB].Keys.Sealer(0)
		var ms []transport.Message
		var want [][]byte
		for len(script) >= 8 && len(ms) < 120 {
			kind, count, size, at, change, first, total, skip := script[0], int(script[1]), 40+4*int(script[2]), int(script[3]), script[4], script[5], script[6], int(script[7])
			script = script[8:]
			if count*size > 60000 || count == 0 {
				continue
			}
			from, to := addrA, addrB
			if kind&1 != 0 {
				from, to = addrA6, addrB6
			}
			build := tcp
			if kind&2 != 0 {
				build = udp
			}
			_, p := build(from, to, count*size, size)
			ip, _ := packet.Parse(p)
			var cut packet.Cut
			cut.Begin(p, &ip, size)
			for i := 0; len(ms) < 120; i++ {
				s := cut.Next()
				if s == nil {
					break
				}
				s = bytes.Clone(s)
				if kind&4 != 0 && i == count/2 {
					s[at%len(s)] ^= change
				}
				if kind&8 != 0 && i == skip {
					continue
				}
				b := make([]byte, session.Overhead+len(s))
				if err := sealer.SealFrom(b, s, first+uint8(i), total); err != nil {
					t.Fatal(err)
				}
				ms = append(ms, transport.Message{Data: b})
				if total == 0 {
					continue // the session's own
				}
				q, err := packet.Parse(s)
				if err != nil || q.Length != len(s) || q.Src != addrA && q.Src != addrA6 || q.Dst != addrB && q.Dst != addrB6 {
					continue
				}
				if q.Plain && total > 1 {
					q.Checksum(s)
				}
				want = append(want, s)
			}
		}
		x.receive(atA, ms...)
		for len(x.b.packets) > 0 {
			<-x.b.packets
		}
		for len(x.b.datagrams) > 0 {
			<-x.b.datagrams
		}
		hs, frames := x.frames()
		var got [][]byte
		for i, b := range frames {
			ip, err := packet.Parse(b)
			if err != nil {
				t.Fatal(err)
			}
			switch h := hs[i]; {
			case h.GSOType != device.GSONone:
				if int(h.CsumStart) != device.EthernetSize+ip.Header || int(h.HdrLen) != device.EthernetSize+ip.Headers() || h.GSOSize == 0 {
					t.Fatalf("%+v for %+v", h, ip)
				}
				var cut packet.Cut
				cut.Begin(b, &ip, int(h.GSOSize))
				for s := cut.Next(); s != nil; s = cut.Next() {
					s = bytes.Clone(s)
					q, _ := packet.Parse(s)
					q.Checksum(s)
					got = append(got, s)
				}
			case h.Flags&device.NeedsChecksum != 0:
				ip.Checksum(b)
				got = append(got, b)
			default:
				got = append(got, b)
			}
		}
		if len(got) != len(want) {
			t.Fatalf("%d packets, want %d; counted %v", len(got), len(want), x.b.counts.all())
		}
		for i := range want {
			if !bytes.Equal(got[i], want[i]) {
				t.Fatalf("packet %d\n got %x\nwant %x", i, got[i][:min(60, len(got[i]))], want[i][:min(60, len(want[i]))])
			}
		}
	})
}

func TestTransmitRefuses(t *testing.T) {
	x := newBench(t, all, false)
	check := func(name string, counter Counter, forLoop, sent int) {
		t.Helper()
		if counter != "" && x.a.counts.get(counter) != 1 || len(x.a.packets) != forLoop || len(x.wire.sent) != sent {
			t.Errorf("%s: %d messages, %d packets for the loop, counted %v", name, len(x.wire.sent), len(x.a.packets), x.a.counts.all())
		}
		for len(x.a.packets) > 0 {
			k := <-x.a.packets
			p, err := packet.Parse(k.Data)
			right := bytes.Clone(k.Data)
			p.Checksum(right)
			if err != nil || p.Length > device.MinMTU || !bytes.Equal(right, k.Data) {
				t.Errorf("%s: the loop was given %d bytes, %v, checksum right: %v", name, len(k.Data), err, bytes.Equal(right, k.Data))
			}
		}
		x.wire.reset()
		x.a.counts = counts{}
	}
	x.send(udp(addrC, addrB, 100, 0))
	check("another's source", DropSource, 0, 0)
	x.send(udp(addrA, addrC, 100, 0))
	check("an unknown destination", "", 1, 0)
	x.send(tcp(addrA, addrC, 5000, 1240))
	check("a superpacket to an unknown destination", "", 5, 0)
	x.send(device.Header{}, []byte{0x45, 0, 0, 99})
	check("no packet", DropFrameType, 0, 0)

	x.tx.begin()
	x.tx.carry(make([]byte, device.HeaderSize+3))
	check("no frame", DropFrameShort, 0, 0)

	late := *x.a.table.Load()
	late.Until = uptime()
	x.a.Publish(&late)
	x.send(udp(addrA, addrB, 100, 0))
	check("after the lease", DropLease, 0, 0)

	now := uptime() // at every look a second later, as if it had been stopped
	x.a.cfg.Clock = func() time.Duration { now += time.Second; return now }
	late.Until = now + 1500*time.Millisecond
	x.a.Publish(&late)
	x.send(udp(addrA, addrB, 100, 0))
	check("the lease ends before it is sent", DropLease, 0, 0)
}

// TestTooLong: what a path does not carry is cut if it is TCP, and otherwise
// its sender is told.
func TestTooLong(t *testing.T) {
	x := newBench(t, all, false)
	h, p := udp(addrA, addrB, 1400, 0)
	x.across(h, p)
	if len(x.wire.sent) != 0 || len(x.self.written) != 1 || x.a.counts.get(DropTooBig) != 1 {
		t.Fatalf("%d messages, %d answers, counted %v", len(x.wire.sent), len(x.self.written), x.a.counts.all())
	}
	answer := x.self.written[0][device.HeaderSize+device.EthernetSize:]
	ip, err := packet.Parse(answer)
	if err != nil || ip.Dst != addrA || answer[20] != 3 || answer[21] != 4 || binary.BigEndian.Uint16(answer[26:]) != device.DefaultMTU {
		t.Errorf("the answer is %x", answer)
	}
	p[6] &^= 0x40 // may be fragmented
	x.across(h, p)
	if len(x.wire.sent) != 1 || len(x.wire.sent[0].Data) != session.Overhead+len(p) {
		t.Errorf("without DF: %d messages", len(x.wire.sent))
	}
	x.screen.reset()
	h, p = tcp(addrA, addrB, 1460, 0)
	x.across(h, p)
	if hs, got := x.frames(); len(got) != 1 || hs[0].GSOSize != 1240 || len(got[0]) != 1500 {
		t.Errorf("TCP: %d frames, %+v", len(got), hs)
	}
}

// TestReceiveLeavesToTheLoop: these are the loop's, and untouched.
func TestReceiveLeavesToTheLoop(t *testing.T) {
	x := newBench(t, all, false)
	x.send(udp(addrA, addrB, 100, 0))
	record := bytes.Clone(x.wire.sent[0].Data)
	control := make([]byte, session.Overhead+2)
	if err := x.a.table.Load().To[addrB].Keys.Sealer(0).Seal(control, 0, 0); err != nil {
		t.Fatal(err)
	}
	other := bytes.Clone(record)
	other[7]++
	relayed := append(make([]byte, session.RelaySize), record...)
	relayed[0] = 0x85
	for _, c := range []struct {
		name string
		from netip.AddrPort
		data []byte
	}{
		{"from another way", atRelay, record},
		{"the session's own", atA, control},
		{"other keys", atA, other},
		{"through an unknown relay", atA, relayed},
		{"a HELLO", atA, append([]byte{0x80}, make([]byte, 1199)...)},
		{"STUN", atA, make([]byte, 20)},
		{"one byte", atA, []byte{0x84}},
		{"no byte", atA, []byte{}},
	} {
		x.receive(c.from, transport.Message{Data: bytes.Clone(c.data)})
		if len(x.b.datagrams) != 1 {
			t.Fatalf("%s: %d datagrams for the loop, %d frames, counted %v", c.name, len(x.b.datagrams), len(x.screen.written), x.b.counts.all())
		}
		if d := <-x.b.datagrams; d.From != c.from || !bytes.Equal(d.Data, c.data) {
			t.Errorf("%s: the loop was given something else", c.name)
		}
	}
	// A message may hold all kinds.
	hello := append([]byte{0x80}, make([]byte, len(record)-1)...)
	x.receive(atA, transport.Message{Data: slices.Concat(hello, record, hello, record), Segment: len(record)})
	if len(x.b.datagrams) != 2 || len(x.screen.written) != 1 || x.b.counts.get(DropRecord) != 1 {
		t.Errorf("mixed: %d for the loop, %d frames, counted %v", len(x.b.datagrams), len(x.screen.written), x.b.counts.all())
	}
	if n := x.b.table.Load().Keys; len(n) == 1 {
		for _, o := range n {
			if o.From[0].Heard.Load() != 1 || o.Activity.HeardPackets.Load() != 1 || o.Activity.HeardBytes.Load() != 128 {
				t.Errorf("heard %d, activity %+v", o.From[0].Heard.Load(), o.Activity)
			}
		}
	}
}

// TestDeliver: what the loop has opened reaches the device with a checksum.
func TestDeliver(t *testing.T) {
	x := newBench(t, all, false)
	h, p := tcp(addrA, addrB, 2000, 1240)
	x.send(h, p)
	keys := x.b.table.Load().Keys
	for d, rest := x.wire.sent[0].Next(x.wire.sent[0].Data); d != nil; d, rest = next(&x.wire.sent[0], rest) {
		index, _ := session.ParseIndex(d)
		o, _, err := keys[index].Keys.Open(d)
		if err != nil {
			t.Fatal(err)
		}
		x.b.Deliver(o.Plain)
	}
	_, got := x.frames()
	for i, b := range got {
		ip, err := packet.Parse(b)
		right := bytes.Clone(b)
		ip.Checksum(right)
		if err != nil || !bytes.Equal(b, right) {
			t.Errorf("packet %d: %v, checksum wrong", i, err)
		}
	}
	if x.b.Deliver([]byte{0x45}); len(got) != 2 || x.b.counts.get(DropFrameType) != 1 {
		t.Errorf("%d packets, counted %v", len(got), x.b.counts.all())
	}
}

// TestNothingIsAllocated: neither a superpacket nor small packets cost the
// collector anything, on either side, direct or relayed.
func TestNothingIsAllocated(t *testing.T) {
	for _, relayed := range []bool{false, true} {
		x := newBench(t, all, relayed)
		h, p := tcp(addrA, addrB, 60000, 1240)
		super := make([]byte, device.HeaderSize, device.MaxRead)
		h.Put(super)
		super = append(vnet.AppendEthernet(super, vnet.Neighbour, p), p...)
		h, p = udp(addrA, addrB, 64, 0)
		small := make([]byte, device.HeaderSize, 200)
		h.Put(small)
		small = append(vnet.AppendEthernet(small, vnet.Neighbour, p), p...)
		work := make([]byte, len(super))
		run := func() {
			x.wire.reset()
			x.screen.reset()
			x.tx.begin()
			for range 10 {
				n := copy(work, small)
				x.tx.carry(work[:n])
			}
			copy(work, super)
			x.tx.carry(work)
			x.tx.flush()
			for i := range x.wire.sent {
				x.wire.sent[i].Peer = atA
			}
			x.rx.call(x.wire.sent)
			if len(x.screen.written) < 11 {
				t.Fatalf("%d frames, counted %v and %v", len(x.screen.written), x.a.counts.all(), x.b.counts.all())
			}
		}
		run()
		if n := testing.AllocsPerRun(50, run); n != 0 {
			t.Errorf("relayed %v: %v allocations", relayed, n)
		}
	}
}

// TestOverMemory is two whole data paths with goroutines, on twins in memory.
func TestOverMemory(t *testing.T) {
	var u transport.Memory
	hosts := [2]device.Memory{}
	a, b := newEnd(t, &u, idA, atA, addrA, addrA6), newEnd(t, &u, idB, atB, addrB, addrB6)
	a.attach(t, &hosts[0], "a")
	b.attach(t, &hosts[1], "b")
	join(t, a, b)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 200 {
		n := r.IntN(1200)
		h, p := udp(addrA, addrB, n, 0)
		ip, _ := packet.Parse(p)
		finish(p, &ip, h)
		from, to, name := &hosts[0], &hosts[1], "a"
		if i%2 == 1 {
			copy(p[12:], addrB.AsSlice())
			copy(p[16:], addrA.AsSlice())
			from, to, name = to, from, "b"
		}
		from.Send(name, append(vnet.AppendEthernet(nil, vnet.Neighbour, p), p...))
		got := to.Received(map[string]string{"a": "b", "b": "a"}[name])
		if len(got) < device.EthernetSize || !bytes.Equal(got[device.EthernetSize:], p) {
			t.Fatalf("packet %d of %d bytes: %d bytes arrived", i, len(p), len(got))
		}
	}
	// A question is answered on the spot.
	question := append([]byte{255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1},
		append(append(addrA.AsSlice(), 0, 0, 0, 0, 0, 0), addrC.AsSlice()...)...)
	hosts[0].Send("a", question)
	if got := hosts[0].Received("a"); len(got) < 42 || [6]byte(got[22:28]) != vnet.Neighbour {
		t.Errorf("ARP answer %x", got)
	}
	closed := make(chan bool)
	go func() { a.Close(); b.Close(); closed <- true }()
	select {
	case <-closed:
	case <-time.After(5 * time.Second):
		t.Fatal("Close does not return")
	}
}
