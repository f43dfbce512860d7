package packet

import (
	"bytes"
	"encoding/binary"
	"testing"
)

func TestError(t *testing.T) {
	fragment := make4(UDP, fill(100))
	fragment[7] = 3
	first := make4(UDP, fill(100))
	first[6] = 0x20
	many := make4(UDP, fill(100))
	many[16] = 224
	extension := make6(UDP, fill(100))
	extension[6] = 43
	for _, c := range []struct {
		name   string
		packet []byte
		what   Unreachable
		kind   byte // and code; 0, 0: no answer
		code   byte
		length int
	}{
		{"too big", make4(TCP, fill(1400)), TooBig, 3, 4, maxError4},
		{"too big, short", make4(UDP, fill(100)), TooBig, 3, 4, 20 + 8 + 128},
		{"no route", make4(TCP, fill(10)), NoRoute, 3, 1, 20 + 8 + 62},
		{"no right", first, NoRight, 3, 13, 20 + 8 + 128},
		{"ping", make4(ICMP, append([]byte{8, 0}, fill(10)...)), NoRoute, 3, 1, 20 + 8 + 32},
		{"an error", make4(ICMP, append([]byte{3, 1}, fill(10)...)), NoRoute, 0, 0, 0},
		{"an empty ICMP", make4(ICMP, nil), NoRoute, 0, 0, 0},
		{"a later fragment", fragment, NoRoute, 0, 0, 0},
		{"multicast", many, NoRoute, 0, 0, 0},
		{"too big over IPv6", make6(TCP, fill(1400)), TooBig, 2, 0, maxError6},
		{"no route over IPv6", make6(UDP, fill(10)), NoRoute, 1, 0, 40 + 8 + 58},
		{"no right over IPv6", make6(UDP, fill(10)), NoRight, 1, 1, 40 + 8 + 58},
		{"ping over IPv6", make6(ICMPv6, append([]byte{128, 0}, fill(10)...)), NoRoute, 1, 0, 40 + 8 + 52},
		{"an error over IPv6", make6(ICMPv6, append([]byte{1, 0}, fill(10)...)), NoRoute, 0, 0, 0},
		{"something behind extension headers", extension, NoRoute, 0, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := Parse(c.packet)
			if err != nil {
				t.Fatal(err)
			}
			got := Error([]byte("before"), c.packet, &p, c.what, 1280)[6:]
			if len(got) != c.length {
				t.Fatalf("%d bytes, want %d", len(got), c.length)
			}
			if c.length == 0 {
				return
			}
			e, err := Parse(got)
			if err != nil || e.Src != p.Dst || e.Dst != p.Src || e.Length != len(got) {
				t.Fatalf("the answer is %+v, %v", e, err)
			}
			body := got[e.Header:]
			if body[0] != c.kind || body[1] != c.code || !bytes.HasPrefix(c.packet, body[8:]) {
				t.Errorf("type %d, code %d, want %d, %d; and %x", body[0], body[1], c.kind, c.code, body[8:30])
			}
			if mtu := binary.BigEndian.Uint32(body[4:]); c.what == TooBig && mtu != 1280 {
				t.Errorf("it names an MTU of %d", mtu)
			}
			sums := [][]byte{body}
			if e.Is6() {
				sums = [][]byte{pseudoHeader(got, &e), body}
			} else if s := oracleSum(got[:20]); s != 0 {
				t.Errorf("over a right header the sum leaves 0, not %#x", s)
			}
			if s := oracleSum(sums...); s != 0 {
				t.Errorf("over a right message the sum leaves 0, not %#x", s)
			}
		})
	}
}

func TestClampMSS(t *testing.T) {
	syn := func(options ...byte) []byte {
		b := build(alice4, bob4, TCP, flagSYN, nil)
		b = append(b[:40], options...)
		b[32] = byte(20+len(options)) / 4 << 4
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		oracleSums(b)
		return b
	}
	for _, c := range []struct {
		name string
		b    []byte
		at   int // of the MSS in the packet
		want uint16
	}{
		{"first option", syn(2, 4, 0x05, 0xb4, 1, 3, 3, 7), 42, 1240},
		{"at an odd offset", syn(1, 2, 4, 0x05, 0xb4, 3, 3, 7), 43, 1240},
		{"low already", syn(2, 4, 0x02, 0x18), 42, 536},
		{"none", syn(1, 1, 1, 0), 0, 0},
		{"behind the end", syn(0, 2, 4, 0x05, 0xb4, 0, 0, 0), 43, 1460},
		{"an option that is cut", syn(8, 10, 2, 4), 0, 0},
		{"an option of no length", syn(8, 0, 2, 4), 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := Parse(c.b)
			if err != nil || !p.Plain {
				t.Fatal("no plain packet")
			}
			was := bytes.Clone(c.b)
			ClampMSS(c.b, &p, 1280)
			if c.at > 0 {
				if got := binary.BigEndian.Uint16(c.b[c.at:]); got != c.want {
					t.Errorf("MSS %d, want %d", got, c.want)
				}
			} else if !bytes.Equal(was, c.b) {
				t.Error("the packet was changed")
			}
			right := bytes.Clone(c.b)
			oracleSums(right)
			if !bytes.Equal(right, c.b) {
				t.Errorf("the checksum is %x, want %x", c.b[36:38], right[36:38])
			}
		})
	}
	data := make4(TCP, fill(100))
	p, _ := Parse(data)
	was := bytes.Clone(data)
	if ClampMSS(data, &p, 100); !bytes.Equal(was, data) {
		t.Error("a segment that is no SYN was changed")
	}
}
