package vnet

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(strings.ReplaceAll(s, " ", ""), "\n", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var (
	lan = netip.MustParsePrefix("10.250.0.0/16")
	own = []netip.Addr{netip.MustParseAddr("10.250.0.2"), netip.MustParseAddr("fd00::2")}
)

// TestAnswer's frames were made by hand from RFC 826 and RFC 4861; the checksum
// of the advertisement was worked out by tcpdump's rule.
func TestAnswer(t *testing.T) {
	const (
		arp    = "ffffffffffff 020000000001 0806 0001 0800 06 04 0001 020000000001 0afa0002 000000000000 "
		answer = "020000000001 026f76657201 0806 0001 0800 06 04 0002 026f76657201 0afa0003 020000000001 0afa0002"
		ns     = "3333ff000003 020000000001 86dd 60000000 0020 3a ff fd000000000000000000000000000002 ff0200000000000000000001ff000003 " +
			"87 00 0000 00000000 fd000000000000000000000000000003 0101 020000000001"
	)
	for _, c := range []struct{ name, frame, want string }{
		{"ARP for another", arp + "0afa0003", answer},
		{"ARP for itself", arp + "0afa0002", ""},
		{"ARP outside the LAN", arp + "0afb0003", ""},
		{"ARP reply", strings.Replace(arp, "04 0001", "04 0002", 1) + "0afa0003", ""},
		{"ARP cut", arp + "0afa", ""},
		{"duplicate address detection", strings.Replace(ns, "fd000000000000000000000000000002 ff02", "00000000000000000000000000000000 ff02", 1), ""},
		{"solicitation for itself", strings.Replace(ns, "00000000 fd000000000000000000000000000003", "00000000 fd000000000000000000000000000002", 1), ""},
		{"IPv4", "020000000002 020000000001 0800 45", ""},
	} {
		if got := hex.EncodeToString(Answer(unhex(t, c.frame), lan, own)); got != strings.ReplaceAll(c.want, " ", "") {
			t.Errorf("%s: %s\nwant %s", c.name, got, c.want)
		}
	}

	got := Answer(unhex(t, ns), lan, own)
	p, ok := Packet(got)
	if !ok || len(p) != ipv6Size+adviceSize || p[ipv6Size] != 136 {
		t.Fatalf("solicitation answered by %x", got)
	}
	source, _ := Source(p)
	to, _ := Destination(p)
	if source.String() != "fd00::3" || to.String() != "fd00::2" {
		t.Errorf("advertisement from %v to %v", source, to)
	}
	if sum := checksum6(source, to, 58, p[ipv6Size:]); sum != 0 { // over itself a right checksum gives zero
		t.Errorf("checksum over the advertisement leaves %#x", sum)
	}
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, frame []byte) {
		Answer(frame, lan, own)
		p, ok := Packet(frame)
		if !ok {
			return
		}
		if len(p) != Size(p) {
			t.Errorf("packet of %d bytes says %d", len(p), Size(p))
		}
		if _, ok := Source(p); !ok {
			t.Error("a whole packet without a source")
		}
		AppendEthernet(nil, Neighbour, p)
	})
}
