package wire

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"

	"gridappliance/overlayd/nodeid"
)

func id(first byte) (id nodeid.ID) {
	for i := range id {
		id[i] = first + byte(i)
	}
	return id
}

func peer(first byte) Peer {
	return Peer{ID: id(first), Holder: Holder{first, 1, 2, 3, 4, 5, 6, 7}, Coord: Coord{X: -8, Y: 800, Height: 20}}
}

var (
	status = Status{Flags: StatusMember | StatusReady, Version: 0x01020304, Size: 0x0d80, Coord: Coord{X: 80, Y: -80, Height: 16}}
	list   = List{Preds: []Peer{peer(0x90), peer(0x80)}, Succs: []Peer{peer(0xb0)}}
	answer = Found{Self: peer(0xa0), Size: 0x0d80, List: list}
)

// vectors are the messages of the ring.
var vectors = []vector{
	{"ping", Ping{Number: 7, Status: status, Tail: []byte{0xde, 0xad}}, parse(ParsePing)},
	{"pong", Pong{Number: 7, Status: status, Tail: []byte{}}, parse(ParsePong)},
	{"neigh-ask", NeighAsk{Have: 5}, parse(ParseNeighAsk)},
	{"neigh", Neigh{Status: status, List: list, Far: []uint64{1, 1 << 63}}, parse(ParseNeigh)},
	{"neigh-empty", Neigh{Status: status}, parse(ParseNeigh)},
	{"link", Link{Role: RoleFar, Status: status}, parse(ParseLink)},
	{"link-answer", LinkAnswer{Role: RoleFar, Code: CodeFull}, parse(ParseLinkAnswer)},
	{"unlink", Unlink{Role: RoleNear, Code: CodeLeaving}, parse(ParseUnlink)},
	{"probe-for", ProbeFor{Target: id(0x10), Number: 9}, parse(ParseProbeFor)},
	{"probe-result", ProbeResult{Target: id(0x10), Number: 9, Finding: FindingSilent}, parse(ParseProbeResult)},
	{"find", Find{}, parse(ParseFind)},
	{"found", answer, parse(ParseFound)},
	{"join", Join{Self: peer(0x20)}, parse(ParseJoin)},
	{"join-answer", JoinAnswer{Code: CodeOffRing, Found: answer}, parse(ParseJoinAnswer)},
	{"merge", Merge{Through: peer(0x30)}, parse(ParseMerge)},
	{"twin", Twin{Now: 1, Before: 1 << 63}, parse(ParseTwin)},
	{"err", Err{Code: CodeNoRoute, About: TypeGet}, parse(ParseErr)},
	{"routed", Routed{
		Header: Header{TTL: 32, Payload: TypeFind, Promise: NoPromise, To: Target{ID: id(0x40)}, Src: id(0x50), RPC: 0x0a0b0c0d, Hop: 0x01020304},
		Body:   []byte{}, Extension: []byte{},
	}, parse(ParseRouted)},
	{"routed-vias", Routed{
		Header: Header{
			TTL: 5, Flags: 0x80, Payload: TypeSession, Version: 2, Service: 0x0304, Promise: 0x1122334455667788,
			To: Target{ID: id(0x40), Exact: true, Via: id(0x60)}, Src: id(0x50), SrcVia: id(0x70), RPC: 1,
		},
		Extension: []byte{1, 2, 3}, Body: []byte{0xff},
	}, parse(ParseRouted)},
	{"newcomer", Newcomer{Self: peer(0x20), Via: id(0x60)}, parse(ParseNewcomer)},
	{"receipt", Receipt{Hop: 0x01020304}, parse(ParseReceipt)},
	{"contact", Contact{ID: id(0x10), Holder: Holder{1}, Endpoints: []netip.AddrPort{
		netip.MustParseAddrPort("192.0.2.1:4242"), netip.MustParseAddrPort("[2001:db8::1]:4242"),
	}}, parse(ParseContact)},
}

func TestVectors(t *testing.T) { check(t, vectors) }

// TestEveryCutAndEveryExtraByteIsRefused cuts each vector short and makes it
// longer. Ping, Pong and Routed end in bytes of any number.
func TestEveryCutAndEveryExtraByteIsRefused(t *testing.T) {
	open := map[string]bool{"ping": true, "pong": true, "routed": true, "routed-vias": true}
	for _, v := range vectors {
		whole := v.m.Append(nil)
		for n := range whole {
			if open[v.name] && n >= len(whole)-2 {
				break
			}
			if _, err := v.parse(whole[:n]); !errors.Is(err, ErrMalformed) {
				t.Errorf("%s cut to %d of %d bytes: %v, want ErrMalformed", v.name, n, len(whole), err)
			}
		}
		if _, err := v.parse(append(whole, 0)); err == nil && !open[v.name] {
			t.Errorf("%s with a byte more is taken", v.name)
		}
	}
}

func TestBounds(t *testing.T) {
	many := make([]Peer, MaxList+1)
	for _, c := range []struct {
		name string
		body []byte
		p    anyParse
	}{
		{"13 predecessors", Neigh{Status: status, List: List{Preds: many}}.Append(nil), parse(ParseNeigh)},
		{"13 successors", Found{List: List{Succs: many}}.Append(nil), parse(ParseFound)},
		{"49 far links", Neigh{Far: make([]uint64, MaxFar+1)}.Append(nil), parse(ParseNeigh)},
		{"tail of 65", Ping{Tail: make([]byte, MaxTail+1)}.Append(nil), parse(ParsePing)},
		{"33 hops", Routed{Header: Header{TTL: MaxTTL + 1}}.Append(nil), parse(ParseRouted)},
		{"two roles", Link{Role: RoleNear | RoleFar}.Append(nil), parse(ParseLink)},
		{"no role", Unlink{}.Append(nil), parse(ParseUnlink)},
		{"role 16", LinkAnswer{Role: 16}.Append(nil), parse(ParseLinkAnswer)},
		{"finding 3", ProbeResult{Finding: 3}.Append(nil), parse(ParseProbeResult)},
		{"five endpoints", Contact{Endpoints: make([]netip.AddrPort, MaxEndpoints+1)}.Append(nil), parse(ParseContact)},
		{"IPv4 mapped into IPv6", append(append(make([]byte, 24), 1, 16), append(netip.MustParseAddr("::ffff:192.0.2.1").AsSlice(), 1, 2)...), parse(ParseContact)},
	} {
		if _, err := c.p(c.body); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, want ErrMalformed", c.name, err)
		}
	}
}

// TestLongestMessagesFit holds the bounds against the longest message.
func TestLongestMessagesFit(t *testing.T) {
	full := List{Preds: make([]Peer, MaxList), Succs: make([]Peer, MaxList)}
	for _, m := range []Message{
		Neigh{List: full, Far: make([]uint64, MaxFar)},
		Ping{Tail: make([]byte, MaxTail)},
		Routed{Header: Header{To: Target{Via: id(1)}, SrcVia: id(2)}, Body: JoinAnswer{Found: Found{List: full}}.Append(nil)},
		Routed{Header: Header{To: Target{Via: id(1)}, SrcVia: id(2)}, Body: make([]byte, MaxPayload)},
	} {
		if n := len(AppendMessage(nil, m)); n > MaxMessage {
			t.Errorf("%s of %d bytes, at most %d", m.Type(), n, MaxMessage)
		}
	}
}

// FuzzParse gives every Parse of the ring the same bytes: what it takes is
// appended as the same bytes again.
func FuzzParse(f *testing.F) {
	for _, v := range vectors {
		f.Add(v.m.Append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, v := range vectors {
			m, err := v.parse(b)
			if err != nil {
				if !errors.Is(err, ErrMalformed) {
					t.Fatalf("%s: %v is no ErrMalformed", v.name, err)
				}
				continue
			}
			if again := m.Append(nil); !bytes.Equal(again, b) {
				t.Fatalf("%s: took %x, appends %x", v.name, b, again)
			}
			if n := weight(m); n > 8*len(b)+256 {
				t.Fatalf("%s: %d bytes from a message of %d", v.name, n, len(b))
			}
		}
	})
}

// weight is what a parsed message holds besides the datagram.
func weight(m any) int {
	of := func(l List) int { return (cap(l.Preds) + cap(l.Succs)) * 32 }
	switch m := m.(type) {
	case Neigh:
		return of(m.List) + 8*cap(m.Far)
	case Found:
		return of(m.List)
	case JoinAnswer:
		return of(m.Found.List)
	case Contact:
		return 32 * cap(m.Endpoints)
	}
	return 0
}
