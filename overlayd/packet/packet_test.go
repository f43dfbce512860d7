package packet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
)

var (
	alice4, bob4 = netip.MustParseAddr("10.250.0.2"), netip.MustParseAddr("10.250.0.3")
	alice6, bob6 = netip.MustParseAddr("fd00::2"), netip.MustParseAddr("fd00::3")
)

// options is what Linux sends in every segment: NOP, NOP, timestamps.
var options = []byte{1, 1, 8, 10, 0, 0, 1, 0, 0, 0, 2, 0}

// make4 and make6 return a packet with a right checksum; TCP has options.
func make4(protocol uint8, payload []byte) []byte {
	return build(alice4, bob4, protocol, flagACK, payload)
}
func make6(protocol uint8, payload []byte) []byte {
	return build(alice6, bob6, protocol, flagACK, payload)
}

func build(src, dst netip.Addr, protocol uint8, flags byte, payload []byte) []byte {
	var t []byte
	switch protocol {
	case TCP:
		t = binary.BigEndian.AppendUint16(t, 4242)
		t = binary.BigEndian.AppendUint16(t, 9618)
		t = binary.BigEndian.AppendUint32(t, 0xfffff000) // wraps
		t = binary.BigEndian.AppendUint32(t, 7)
		t = append(t, byte(20+len(options))/4<<4, flags, 1, 0, 0, 0, 0, 0)
		t = append(t, options...)
	case UDP:
		t = binary.BigEndian.AppendUint16(t, 4242)
		t = binary.BigEndian.AppendUint16(t, 53)
		t = binary.BigEndian.AppendUint16(t, uint16(8+len(payload)))
		t = append(t, 0, 0)
	}
	t = append(t, payload...)
	var b []byte
	if src.Is4() {
		b = append(b, 0x45, 2)
		b = binary.BigEndian.AppendUint16(b, uint16(20+len(t)))
		b = append(b, 0xff, 0xfe, 0x40, 0, 64, protocol, 0, 0)
	} else {
		b = append(b, 0x60, 0x20, 0, 9)
		b = binary.BigEndian.AppendUint16(b, uint16(len(t)))
		b = append(b, protocol, 64)
	}
	b = append(append(append(b, src.AsSlice()...), dst.AsSlice()...), t...)
	oracleSums(b)
	return b
}

func fill(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7)
	}
	return b
}

// oracleSum is the checksum as RFC 1071 §4.1 writes it down.
func oracleSum(parts ...[]byte) uint16 {
	all := bytes.Join(parts, nil)
	total := 0
	for i := 0; i < len(all); i += 2 {
		word := int(all[i]) << 8
		if i+1 < len(all) {
			word += int(all[i+1])
		}
		total += word
	}
	for total > 0xffff {
		total = total&0xffff + total>>16
	}
	return ^uint16(total)
}

// oracleSums makes all checksums of a whole TCP or UDP packet.
func oracleSums(b []byte) {
	at, protocol, addresses := 40, b[6], []byte(nil)
	if b[0]>>4 == 4 {
		at, protocol, addresses = int(b[0]&15)*4, b[9], b[12:20]
		b[10], b[11] = 0, 0
		binary.BigEndian.PutUint16(b[10:], oracleSum(b[:at]))
	} else {
		addresses = b[8:40]
	}
	field := at + 16
	if protocol == UDP {
		field = at + 6
	}
	if protocol != TCP && protocol != UDP {
		return
	}
	b[field], b[field+1] = 0, 0
	var length [2]byte
	binary.BigEndian.PutUint16(length[:], uint16(len(b)-at))
	s := oracleSum(addresses, []byte{0, protocol}, length[:], b[at:])
	if s == 0 {
		s = 0xffff
	}
	binary.BigEndian.PutUint16(b[field:], s)
}

// oracleSplit is what a network card does with a superpacket (virtio 1.2
// §5.1.6.2), written without a look at Cut.
func oracleSplit(super []byte, gsoSize int) (segments [][]byte) {
	at, tcp := 40, super[6] == TCP
	if super[0]>>4 == 4 {
		at, tcp = 20, super[9] == TCP
	}
	headers := at + 8
	if tcp {
		headers = at + int(super[at+12]>>4)*4
	}
	payload := super[headers:]
	for i := 0; len(payload) > 0; i++ {
		n := min(gsoSize, len(payload))
		s := append(bytes.Clone(super[:headers]), payload[:n]...)
		payload = payload[n:]
		if s[0]>>4 == 4 {
			binary.BigEndian.PutUint16(s[2:], uint16(len(s)))
			binary.BigEndian.PutUint16(s[4:], binary.BigEndian.Uint16(super[4:])+uint16(i))
		} else {
			binary.BigEndian.PutUint16(s[4:], uint16(len(s)-40))
		}
		if tcp {
			binary.BigEndian.PutUint32(s[at+4:], binary.BigEndian.Uint32(super[at+4:])+uint32(i*gsoSize))
			if i > 0 {
				s[at+13] &^= 0x80
			}
			if len(payload) > 0 {
				s[at+13] &^= 0x09
			}
		} else {
			binary.BigEndian.PutUint16(s[at+4:], uint16(len(s)-at))
		}
		oracleSums(s)
		segments = append(segments, s)
	}
	return segments
}

// joinAll joins packets as a receiver does, and splits what was joined.
func joinAll(t testing.TB, packets [][]byte) (split [][]byte) {
	var j Join
	end := func() {
		n, gso := j.Len(), j.Segment()
		super := bytes.Join(j.End(), nil)
		p, err := Parse(super)
		if err != nil || p != *j.IP() {
			t.Fatalf("%d packets joined: parsed as %+v, %v, described as %+v", n, p, err, j.IP())
		}
		if p.Plain {
			if got, want := binary.BigEndian.Uint16(super[p.Header+p.ChecksumOffset():]), ^oracleSum(pseudoHeader(super, &p)); got != want {
				t.Fatalf("%d packets joined: partial checksum %#x, want %#x", n, got, want)
			}
		}
		switch {
		case n > 1:
			made := oracleSplit(super, gso)
			if len(made) != n {
				t.Fatalf("%d packets joined make %d segments of %d", n, len(made), gso)
			}
			split = append(split, made...)
		case p.Plain:
			oracleSums(super)
			split = append(split, super)
		default:
			split = append(split, super)
		}
	}
	begun := false
	for _, b := range packets {
		if begun && j.Add(b) {
			continue
		}
		if begun {
			end()
		}
		p, err := Parse(b)
		if err != nil || p.Length != len(b) {
			t.Fatal("a packet that is none")
		}
		j.Begin(b, &p)
		begun = true
	}
	if begun {
		end()
	}
	return split
}

func pseudoHeader(b []byte, p *IP) []byte {
	var ph []byte
	if p.Is6() {
		ph = append(ph, b[8:40]...)
	} else {
		ph = append(ph, b[12:20]...)
	}
	return append(ph, 0, p.Protocol, byte((p.Length-p.Header)>>8), byte(p.Length-p.Header))
}

// TestCutAndJoin is the way of a superpacket: cut, joined and split again it
// is what a network card would have sent.
func TestCutAndJoin(t *testing.T) {
	for _, c := range []struct {
		name     string
		packet   []byte
		size     int
		segments int
	}{
		{"TCP over IPv4", make4(TCP, fill(61400)), 1228, 50},
		{"TCP over IPv6", make6(TCP, fill(60000)), 1208, 50},
		{"a short last", make4(TCP, fill(2500)), 1000, 3},
		{"one byte last", make4(TCP, fill(2001)), 1000, 3},
		{"all flags that may be", build(alice4, bob4, TCP, flagACK|flagPSH|flagFIN|flagCWR|0x40, fill(3000)), 1000, 3},
		{"UDP over IPv4", make4(UDP, fill(12000)), 1200, 10},
		{"UDP over IPv6", make6(UDP, fill(12001)), 1200, 11},
		{"nothing to cut", make4(TCP, fill(900)), 1000, 1},
		{"no payload", make6(TCP, nil), 1000, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := oracleSplit(c.packet, c.size)
			if c.segments == 1 {
				want = [][]byte{bytes.Clone(c.packet)}
			}
			p, err := Parse(c.packet)
			if err != nil {
				t.Fatal(err)
			}
			var cut Cut
			if n := cut.Begin(c.packet, &p, c.size); n != c.segments {
				t.Errorf("Begin says %d segments, want %d", n, c.segments)
			}
			var got [][]byte
			for s := cut.Next(); s != nil; s = cut.Next() {
				got = append(got, bytes.Clone(s))
			}
			if len(got) != c.segments {
				t.Fatalf("%d segments, want %d", len(got), c.segments)
			}
			for i := range got {
				one := bytes.Clone(got[i])
				q, err := Parse(one)
				if err != nil || q.Length != len(one) || !q.Plain {
					t.Fatalf("segment %d is %+v, %v", i, q, err)
				}
				q.Checksum(one)
				if !bytes.Equal(one, want[i]) {
					t.Fatalf("segment %d\n got %x\nwant %x", i, one[:60], want[i][:60])
				}
			}
			var j Join
			q, _ := Parse(got[0])
			j.Begin(bytes.Clone(got[0]), &q)
			for i, s := range got[1:] {
				if !j.Add(s) {
					t.Fatalf("segment %d does not join", i+1)
				}
			}
			for i, s := range joinAll(t, got) {
				if !bytes.Equal(s, want[i]) {
					t.Fatalf("segment %d after joining\n got %x\nwant %x", i, s[:60], want[i][:60])
				}
			}
		})
	}
}

// TestJoinRefuses changes one thing in the second of three segments; it may
// not be joined with the first.
func TestJoinRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		tcp    bool // and IPv4
		change func(b []byte)
	}{
		{"source", true, func(b []byte) { b[15]++ }},
		{"destination", true, func(b []byte) { b[19]++ }},
		{"TOS", true, func(b []byte) { b[1] ^= 1 }},
		{"TTL", true, func(b []byte) { b[8]-- }},
		{"no DF", true, func(b []byte) { b[6] &^= 0x40 }},
		{"more fragments", true, func(b []byte) { b[6] |= 0x20 }},
		{"fragment offset", true, func(b []byte) { b[7] = 1 }},
		{"ID", true, func(b []byte) { b[5]++ }},
		{"protocol", true, func(b []byte) { b[9] = UDP }},
		{"header checksum", true, func(b []byte) { b[11]++ }},
		{"IP options", true, func(b []byte) { b[0]++ }},
		{"total length", true, func(b []byte) { b[3]-- }},
		{"version", true, func(b []byte) { b[0] = 0x65 }},
		{"source port", true, func(b []byte) { b[21]++ }},
		{"destination port", true, func(b []byte) { b[23]++ }},
		{"sequence", true, func(b []byte) { b[27]++ }},
		{"acknowledgement", true, func(b []byte) { b[31]++ }},
		{"header length", true, func(b []byte) { b[32] -= 0x10 }},
		{"SYN", true, func(b []byte) { b[33] |= flagSYN }},
		{"RST", true, func(b []byte) { b[33] |= flagRST }},
		{"URG", true, func(b []byte) { b[33] |= flagURG }},
		{"CWR", true, func(b []byte) { b[33] |= flagCWR }},
		{"no ACK", true, func(b []byte) { b[33] &^= flagACK }},
		{"window", true, func(b []byte) { b[35]++ }},
		{"urgent pointer", true, func(b []byte) { b[39]++ }},
		{"timestamp", true, func(b []byte) { b[47]++ }},
		{"source", false, func(b []byte) { b[23]++ }},
		{"destination", false, func(b []byte) { b[39]++ }},
		{"flow label", false, func(b []byte) { b[3]++ }},
		{"traffic class", false, func(b []byte) { b[1] ^= 0x20 }},
		{"hop limit", false, func(b []byte) { b[7]-- }},
		{"extension header", false, func(b []byte) { b[6] = 0 }},
		{"payload length", false, func(b []byte) { b[5]-- }},
		{"source port", false, func(b []byte) { b[41]++ }},
		{"destination port", false, func(b []byte) { b[43]++ }},
		{"UDP length", false, func(b []byte) { b[45]-- }},
	} {
		t.Run(fmt.Sprintf("%s, TCP over IPv4 %v", c.name, c.tcp), func(t *testing.T) {
			whole := make6(UDP, fill(3000))
			if c.tcp {
				whole = make4(TCP, fill(3000))
			}
			s := oracleSplit(whole, 1000)
			var j Join
			p, _ := Parse(s[0])
			if !j.Begin(s[0], &p) || !j.Add(s[1]) {
				t.Fatal("what was not changed does not join")
			}
			j.Begin(s[0], &p)
			c.change(s[1])
			if c.tcp && c.name != "version" && c.name != "header checksum" {
				headerChecksum(s[1]) // or that alone were the reason
			}
			if j.Add(s[1]) {
				t.Error("joined")
			}
		})
	}
	t.Run("after a short segment", func(t *testing.T) {
		s := oracleSplit(make4(TCP, fill(2500)), 1000)
		more := oracleSplit(make4(TCP, fill(3500)), 2500)[1]
		var j Join
		p, _ := Parse(s[0])
		j.Begin(s[0], &p)
		if !j.Add(s[1]) || !j.Add(s[2]) || j.Add(more) {
			t.Error("joined")
		}
	})
	t.Run("after FIN", func(t *testing.T) {
		s := oracleSplit(make4(TCP, fill(3000)), 1000)
		s[1][33] |= flagFIN
		var j Join
		p, _ := Parse(s[0])
		j.Begin(s[0], &p)
		if !j.Add(s[1]) || j.Add(s[2]) {
			t.Error("joined")
		}
	})
	t.Run("longer than a packet may be", func(t *testing.T) {
		var j Join
		whole := make4(TCP, fill(65000))
		s := oracleSplit(whole, 13000)
		p, _ := Parse(s[0])
		j.Begin(s[0], &p)
		for i, x := range s[1:] {
			if !j.Add(x) {
				t.Fatalf("segment %d of %d bytes does not join", i+1, len(x))
			}
		}
		more := build(alice4, bob4, TCP, flagACK, fill(13000))
		id, seq := binary.BigEndian.Uint16(whole[4:]), binary.BigEndian.Uint32(whole[24:])
		binary.BigEndian.PutUint16(more[4:], id+5)
		binary.BigEndian.PutUint32(more[24:], seq+65000)
		if j.Add(more) {
			t.Error("joined")
		}
	})
}

func TestParse(t *testing.T) {
	with := func(b []byte, change func([]byte)) []byte {
		change(b)
		return b
	}
	for _, c := range []struct {
		name   string
		b      []byte
		plain  bool
		length int // 0: malformed
	}{
		{"TCP", make4(TCP, fill(10)), true, 62},
		{"TCP over IPv6", make6(TCP, fill(10)), true, 82},
		{"UDP", make4(UDP, fill(10)), true, 38},
		{"padding", append(make4(UDP, fill(10)), 0, 0), true, 38},
		{"ping", make4(ICMP, fill(10)), false, 30},
		{"first fragment", with(make4(UDP, fill(10)), func(b []byte) { b[6] = 0x20 }), false, 38},
		{"later fragment", with(make4(UDP, fill(10)), func(b []byte) { b[7] = 9 }), false, 38},
		{"reserved flag", with(make4(UDP, fill(10)), func(b []byte) { b[6] |= 0x80 }), false, 38},
		{"IP options", with(make4(TCP, fill(10)), func(b []byte) { b[0] = 0x46 }), false, 62},
		{"hop-by-hop options", with(make6(UDP, fill(10)), func(b []byte) { b[6] = 0 }), false, 58},
		{"TCP header longer than the packet", with(make4(TCP, fill(10)), func(b []byte) { b[32] = 0xf0 }), false, 62},
		{"TCP header too short", with(make4(TCP, fill(10)), func(b []byte) { b[32] = 0x40 }), false, 62},
		{"UDP cut", with(make4(UDP, nil)[:27], func(b []byte) { b[3] = 27 }), false, 27},
		{"nothing", nil, false, 0},
		{"short", make4(TCP, nil)[:19], false, 0},
		{"shorter than it says", make4(TCP, fill(10))[:61], false, 0},
		{"IPv6 shorter than it says", make6(TCP, fill(10))[:81], false, 0},
		{"header length below 5", with(make4(TCP, nil), func(b []byte) { b[0] = 0x44 }), false, 0},
		{"length below the header", with(make4(TCP, nil), func(b []byte) { b[3] = 19 }), false, 0},
		{"version 5", with(make4(TCP, nil), func(b []byte) { b[0] = 0x55 }), false, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := Parse(c.b)
			if (c.length == 0) != errors.Is(err, ErrMalformed) {
				t.Fatalf("error %v", err)
			}
			if err == nil && (p.Length != c.length || p.Plain != c.plain) {
				t.Errorf("length %d, plain %v; want %d, %v", p.Length, p.Plain, c.length, c.plain)
			}
		})
	}
}

func TestSum(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for n := range 300 {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		for range 2 {
			if got, want := ^sum(b), oracleSum(b); got != want {
				t.Fatalf("%d bytes: %#x, want %#x", n, got, want)
			}
			for i := range b {
				b[i] = 0xff // carries in every word
			}
		}
	}
}

// scramble makes packets out of a fuzzer's bytes: some runs of segments as Cut
// makes them, with changes in them.
func scramble(script []byte) (packets [][]byte) {
	for len(script) >= 8 && len(packets) < 200 {
		kind, count, size, field, change := script[0], int(script[1])%70, int(script[2])*6+1, int(script[3]), script[4]
		total := size*count - int(script[5])%size
		flags := script[6]
		script = script[8:]
		if total <= 0 || total > 60000 {
			continue
		}
		src, dst := alice4, bob4
		if kind&1 != 0 {
			src, dst = alice6, bob6
		}
		protocol := uint8(TCP)
		if kind&2 != 0 {
			protocol = UDP
		}
		b := build(src, dst, protocol, flags, fill(total))
		p, _ := Parse(b)
		var cut Cut
		n := cut.Begin(b, &p, size)
		for i := range n {
			s := bytes.Clone(cut.Next())
			if kind&4 != 0 && i == n/2 {
				s[field%len(s)] ^= change
			}
			if kind&8 != 0 && i == n/3 {
				continue
			}
			packets = append(packets, s)
		}
	}
	whole := packets[:0]
	for _, b := range packets {
		if p, err := Parse(b); err == nil && p.Length == len(b) {
			whole = append(whole, b)
		}
	}
	return whole
}

// FuzzJoin is the differential test: whatever packets come after each other,
// joined and split again they are the same packets, with right checksums.
func FuzzJoin(f *testing.F) {
	f.Add([]byte{0, 50, 200, 0, 0, 3, flagACK | flagPSH, 0})
	f.Add([]byte{1, 9, 100, 0, 0, 3, flagACK | flagCWR | flagFIN, 0, 3, 20, 4, 0, 0, 1, 0, 0})
	f.Add([]byte{4, 9, 100, 9, 3, 3, flagACK, 0, 12, 20, 4, 33, 1, 1, 16, 0, 15, 64, 6, 45, 1, 0, 16, 0})
	f.Fuzz(func(t *testing.T, script []byte) {
		packets := scramble(script)
		want := make([][]byte, len(packets))
		for i, b := range packets {
			want[i] = bytes.Clone(b)
			p, _ := Parse(b)
			if p.Plain {
				oracleSums(want[i])
			}
			// UDP's own length may differ from IP's (RFC 768 says nothing of it);
			// such a packet is passed on with the length it has.
		}
		got := joinAll(t, packets)
		if len(got) != len(want) {
			t.Fatalf("%d packets became %d", len(want), len(got))
		}
		for i := range got {
			if !bytes.Equal(got[i], want[i]) {
				t.Fatalf("packet %d of %d\n got %x\nwant %x", i, len(got), got[i][:min(80, len(got[i]))], want[i][:min(80, len(want[i]))])
			}
		}
	})
}

// FuzzParse: no panic, whatever comes; cutting what is Plain gives packets.
func FuzzParse(f *testing.F) {
	f.Add(make4(TCP, fill(100)), 7)
	f.Add(make6(UDP, fill(100)), 50)
	f.Add(make4(ICMP, []byte{8, 0, 0, 0}), 1)
	f.Fuzz(func(t *testing.T, b []byte, size int) {
		p, err := Parse(b)
		if err != nil {
			return
		}
		if p.Length > len(b) || p.Header > p.Length || p.Plain && p.Headers() > p.Length {
			t.Fatalf("%+v of %d bytes", p, len(b))
		}
		for _, what := range []Unreachable{TooBig, NoRoute, NoRight} {
			e := Error(nil, b, &p, what, 1280)
			if len(e) > maxError6 {
				t.Fatalf("an error of %d bytes", len(e))
			}
			if q, err := Parse(e); len(e) > 0 && (err != nil || q.Dst != p.Src || q.Length != len(e)) {
				t.Fatalf("an error that is no packet: %x", e)
			}
		}
		if p.Transport == 0 {
			return
		}
		ClampMSS(b, &p, 1280)
		size = max(1, size&0xffff)
		payload := bytes.Clone(b[p.Headers():p.Length])
		var cut Cut
		var again []byte
		n := cut.Begin(b, &p, size)
		for s := cut.Next(); s != nil; s = cut.Next() {
			n--
			q, err := Parse(s)
			if err != nil || q.Length != len(s) || q.Headers() != p.Headers() {
				t.Fatalf("segment %x: %+v, %v", s, q, err)
			}
			again = append(again, s[q.Headers():]...)
		}
		if n != 0 || !bytes.Equal(again, payload) {
			t.Fatalf("%d segments missing, %d bytes of %d", n, len(again), len(payload))
		}
	})
}

func TestNothingIsAllocated(t *testing.T) {
	super := make4(TCP, fill(60000))
	work, segments := make([]byte, len(super)), make([]byte, 0, 70000)
	var cut Cut
	var j Join
	run := func() {
		copy(work, super)
		p, err := Parse(work)
		if err != nil {
			t.Fatal(err)
		}
		begun := false
		segments = segments[:0]
		cut.Begin(work, &p, 1228)
		for s := cut.Next(); s != nil; s = cut.Next() {
			at := len(segments)
			segments = append(segments, s...)
			if !begun {
				q, _ := Parse(segments[at:])
				begun = j.Begin(segments[at:], &q)
			} else if !j.Add(segments[at:]) {
				t.Fatal("does not join")
			}
		}
		j.End()
	}
	run()
	if n := testing.AllocsPerRun(20, run); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
