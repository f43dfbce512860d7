package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"gridappliance/overlayd/nodeid"
)

var linkVectors = []struct {
	name  string
	m     Message
	parse anyParse
}{
	{"candidates", Candidates{Mapping: EndpointIndependent, List: []Candidate{
		{ReflexiveCandidate, netip.MustParseAddrPort("198.51.100.7:4242")}, {HostCandidate, netip.MustParseAddrPort("[2001:db8::7]:4242")}},
		Relays: []RelayOffer{{nodeid.ID{1, 2, 3}, 25}}}, parse(ParseCandidates)},
	{"candidates-spray", Candidates{Mapping: AddressDependent, Spray: true, List: []Candidate{
		{ReflexiveCandidate, netip.MustParseAddrPort("198.51.100.7:4242")}}}, parse(ParseCandidates)},
	{"check", Check{[8]byte{1, 2, 3, 4, 5, 6, 7, 8}, netip.MustParseAddrPort("198.51.100.7:4242")}, parse(ParseCheck)},
	{"check-answer", CheckAnswer{[8]byte{1, 2, 3, 4, 5, 6, 7, 8}, [8]byte{9}, netip.MustParseAddrPort("203.0.113.9:61000")}, parse(ParseCheckAnswer)},
	{"relay", Relay{RelayNew, 7, nodeid.ID{1, 2, 3}}, parse(ParseRelay)},
}

func TestLinkVectors(t *testing.T) {
	for _, v := range linkVectors {
		file := filepath.Join("testdata", v.name+".hex")
		got := v.m.Append(nil)
		if *update {
			if err := os.WriteFile(file, []byte(hex.EncodeToString(got)+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if want := strings.TrimSpace(string(text)); hex.EncodeToString(got) != want {
			t.Errorf("%s: Append gives %x, %s has %s", v.name, got, file, want)
		}
		if back, err := v.parse(got); err != nil || !reflect.DeepEqual(back, v.m) {
			t.Errorf("%s: parsed %+v, %v", v.name, back, err)
		}
		for n := range got {
			if _, err := v.parse(got[:n]); !errors.Is(err, ErrMalformed) {
				t.Errorf("%s cut to %d bytes: %v", v.name, n, err)
			}
		}
		if _, err := v.parse(append(got, 0)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s with a byte more: %v", v.name, err)
		}
	}
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
