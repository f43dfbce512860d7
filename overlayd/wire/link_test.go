package wire

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"

	"gridappliance/overlayd/nodeid"
)

var linkVectors = []vector{
	{"candidates", Candidates{Mapping: EndpointIndependent, List: []Candidate{
		{ReflexiveCandidate, netip.MustParseAddrPort("198.51.100.7:4242")}, {HostCandidate, netip.MustParseAddrPort("[2001:db8::7]:4242")}},
		Relays: []RelayOffer{{nodeid.ID{1, 2, 3}, 25}}, Places: []Place{{[8]byte{0xb0, 7: 0x0b}, 7}}}, parse(ParseCandidates)},
	{"candidates-spray", Candidates{Mapping: AddressDependent, Spray: true, List: []Candidate{
		{ReflexiveCandidate, netip.MustParseAddrPort("198.51.100.7:4242")}}}, parse(ParseCandidates)},
	{"check", Check{[8]byte{1, 2, 3, 4, 5, 6, 7, 8}, netip.MustParseAddrPort("198.51.100.7:4242")}, parse(ParseCheck)},
	{"check-answer", CheckAnswer{[8]byte{1, 2, 3, 4, 5, 6, 7, 8}, [8]byte{9}, netip.MustParseAddrPort("203.0.113.9:61000")}, parse(ParseCheckAnswer)},
	{"relay", Relay{RelayNew, 7, nodeid.ID{1, 2, 3}}, parse(ParseRelay)},
}

func TestLinkVectors(t *testing.T) {
	check(t, linkVectors)
	cuts(t, linkVectors)
}

func TestLinkBounds(t *testing.T) {
	c := Candidates{}
	for range MaxCandidates {
		c.List = append(c.List, Candidate{HostCandidate, netip.MustParseAddrPort("[2001:db8::7]:4242")})
	}
	for range MaxRelays {
		c.Relays = append(c.Relays, RelayOffer{})
	}
	if n := len(c.Append(nil)); n > 512 {
		t.Errorf("the longest candidates are %d bytes; a handshake's offer holds 512", n)
	}
	e := netip.MustParseAddrPort("[2001:db8::7]:4242")
	if len(Check{To: e}.Append(nil)) != len(CheckAnswer{Observed: e}.Append(nil)) {
		t.Error("an answer is not as long as its check")
	}
	nine, relays := c, c
	nine.List = append(nine.List[:8:8], nine.List[0])
	relays.Relays = append(relays.Relays[:8:8], RelayOffer{})
	for name, bad := range map[string]Message{
		"nine candidates": nine, "nine relays": relays, "mapping 3": Candidates{Mapping: 3},
		"kind 5": Candidates{List: []Candidate{{5, e}}}, "operation 0": Relay{}, "operation 5": Relay{Op: 5},
	} {
		var err error
		if r, ok := bad.(Relay); ok {
			_, err = ParseRelay(r.Append(nil))
		} else {
			_, err = ParseCandidates(bad.Append(nil))
		}
		if !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzLink wants what is taken to be appended as the same bytes again.
func FuzzLink(f *testing.F) {
	for i, v := range linkVectors {
		f.Add(uint8(i), v.m.Append(nil))
	}
	f.Fuzz(func(t *testing.T, kind uint8, b []byte) {
		m, err := linkVectors[int(kind)%len(linkVectors)].parse(b)
		if err == nil && !bytes.Equal(m.Append(nil), b) {
			t.Fatalf("%x from %x", m.Append(nil), b)
		}
	})
}
