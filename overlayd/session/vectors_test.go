package session

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/flynn/noise"

	"gridappliance/credential"
	"gridappliance/overlayd/nodeid"
)

var update = flag.Bool("update", false, "rewrite the vectors in testdata, with new certificates")

const vectors = "testdata/handshake.hex"

// TestVectors runs a whole handshake from what testdata/handshake.hex fixes
// (certificates, keys, random bytes, the time) and wants every datagram in it
// to be the same again.
func TestVectors(t *testing.T) {
	if *update {
		writeVectors(t)
	}
	v := readVectors(t)
	got := runVectors(t, v)
	for _, line := range got {
		if want := v[line.name]; !bytes.Equal(want, line.data) {
			t.Errorf("%s:\n%x, in testdata\n%x", line.name, line.data, want)
		}
	}
	if len(got) < 12 {
		t.Errorf("only %d values", len(got))
	}
}

type vector struct {
	name string
	data []byte
}

// input makes what is fixed.
func input(t *testing.T) []vector {
	g := newGrid(t, "archer")
	out := []vector{{"grid descriptor", g.grid.Descriptor.Text()}, {"root", g.root[:]}}
	for i, who := range []string{"initiator", "responder"} {
		holder := g.holder(who, 0, 0)
		p := g.node(who, holder, nil)
		out = append(out, vector{who + " static private", p.static.Private}, vector{who + " static public", p.static.Public},
			vector{who + " random seed", bytes.Repeat([]byte{byte(i + 1)}, 32)})
		for k, cert := range p.chain {
			out = append(out, vector{fmt.Sprintf("%s certificate %d", who, k), cert})
		}
	}
	return out
}

// recorder remembers the random bytes it gives.
type recorder struct {
	*rand.ChaCha8
	given []byte
}

func (r *recorder) Read(b []byte) (int, error) {
	n, err := r.ChaCha8.Read(b)
	r.given = append(r.given, b[:n]...)
	return n, err
}

func runVectors(t *testing.T, v map[string][]byte) []vector {
	d, err := credential.ParseDescriptor(v["grid descriptor"])
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := credential.NewVerifier(d)
	if err != nil {
		t.Fatal(err)
	}
	var peers []*peer
	var random []*recorder
	for _, who := range []string{"initiator", "responder"} {
		chain := credential.Chain{v[who+" certificate 0"], v[who+" certificate 1"]}
		node, err := verifier.VerifyNode(chain, start)
		if err != nil {
			t.Fatal(err)
		}
		r := &recorder{ChaCha8: rand.NewChaCha8([32]byte(v[who+" random seed"]))}
		random = append(random, r)
		static := noise.DHKey{Private: v[who+" static private"], Public: v[who+" static public"]}
		m, err := New(Config{ID: nodeid.ID(node.ID), Static: static, Chain: chain, Roots: [][32]byte{[32]byte(v["root"])},
			Descriptor: d.Hash(), Purposes: []string{LinkPurpose}, AES: true, Offer: []byte("offer of the " + who), Random: r,
			Crypto: Real(func(c credential.Chain, now time.Time) (*credential.Node, error) { return verifier.VerifyNode(c, now) })}, start)
		if err != nil {
			t.Fatal(err)
		}
		peers = append(peers, &peer{Machine: m, name: who, id: nodeid.ID(node.ID), at: Direct(endpoint(byte(len(peers) + 1))).Endpoint})
	}
	n := newNet(t, peers...)
	all := n.capture()
	a, b := peers[0], peers[1]
	n.open(a, b)
	n.run(time.Second)
	if a.up == nil || b.up == nil {
		t.Fatal("no session", a.log, b.log, a.Counters(), b.Counters())
	}
	message, err := a.up.Seal(nil, n.now, 5, []byte("a message"))
	if err != nil {
		t.Fatal(err)
	}
	relayed := append(make([]byte, RelaySize), "carried"...)
	if err := new(Marker).Mark(a.up.Keys(), relayed, 7); err != nil {
		t.Fatal(err)
	}
	out := []vector{{"prologue", Prologue([32]byte(v["root"]), LinkPurpose)},
		{"initiator random bytes used", random[0].given}, {"responder random bytes used", random[1].given}}
	for i, f := range *all {
		who := "initiator"
		if f.from == b.at {
			who = "responder"
		}
		out = append(out, vector{fmt.Sprintf("datagram %d from %s", i, who), f.data})
	}
	return append(out, vector{"record of \"a message\" on path 5", message}, vector{"\"carried\" marked for channel 7", relayed})
}

func writeVectors(t *testing.T) {
	in := input(t)
	v := map[string][]byte{}
	for _, line := range in {
		v[line.name] = line.data
	}
	var b strings.Builder
	b.WriteString("# A whole handshake: docs/protocol.md, \"Datagrams and sessions\". The time is 2026-11-25 12:00 UTC.\n" +
		"# Both ends have AES in hardware. Random bytes are used in the order given; the first 64 make two cookie secrets.\n")
	for _, line := range append(in, runVectors(t, v)...) {
		fmt.Fprintf(&b, "%s: %x\n", line.name, line.data)
	}
	if err := os.MkdirAll(filepath.Dir(vectors), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(vectors, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

func readVectors(t *testing.T) map[string][]byte {
	f, err := os.Open(vectors)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	v := map[string][]byte{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		name, text, ok := strings.Cut(lines.Text(), ": ")
		if !ok || strings.HasPrefix(name, "#") {
			continue
		}
		if v[name], err = hex.DecodeString(text); err != nil {
			t.Fatal(name, err)
		}
	}
	return v
}
