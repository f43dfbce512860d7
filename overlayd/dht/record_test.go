package dht

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gridappliance/credential"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/piece"
	"gridappliance/overlayd/wire"
)

var update = flag.Bool("update", false, "rewrite golden files")

// real is Crypto with a machine's own key and a grid's verifier.
type real struct {
	key      *ecdsa.PrivateKey
	verifier *credential.Verifier
}

func (r real) Sign(digest [32]byte) ([]byte, error) {
	return ecdsa.SignASN1(rand.Reader, r.key, digest[:])
}

func (r real) VerifyChain(chain credential.Chain, now time.Time) (*credential.Node, error) {
	return r.verifier.VerifyNode(chain, now)
}

func (r real) Verify(owner *credential.Node, digest [32]byte, signature []byte) bool {
	return ecdsa.VerifyASN1(owner.Key, digest[:], signature)
}

// realNode returns the certificate and crypto of a new node of a real grid.
func realNode(t *testing.T, g *credential.Grid, user string) (*credential.NodeCertificate, real) {
	t.Helper()
	cert, key, err := g.IssueHolder(credential.HolderRequest{
		User: user, Group: "physics", Roles: []credential.Role{credential.RoleWorker}, Valid: 30 * 24 * time.Hour,
	}, start)
	if err != nil {
		t.Fatal(err)
	}
	identity := must(credential.Open(g.Descriptor.Text(), cert, []byte(key), start))
	nodeKey := must(credential.NewKey())
	node := must(identity.MakeNode(credential.NodeRequest{Key: &nodeKey.PublicKey, X25519: [32]byte{1}, Instance: "m"}, start))
	return node, real{nodeKey, must(credential.NewVerifier(g.Descriptor))}
}

// TestRealCrypto: two machines with real certificates; the record and the chain
// go over the wire in pieces.
func TestRealCrypto(t *testing.T) {
	g := must(credential.NewGrid(credential.GridOptions{
		Name: "archer", Masters: 1, Namespaces: []credential.Namespace{{Name: "archer"}},
	}, start))
	n := newNetwork(t, 1)
	n.loss = 0
	var machines []*node
	for _, user := range []string{"alice", "bob", "carol"} {
		cert, crypto := realNode(t, g, user)
		m := &node{id: nodeid.ID(cert.Node.ID), holder: wire.Holder(cert.Node.Holder.Key[:8]), alive: true}
		m.machine = New(Config{Self: m.id, Holder: m.holder, Rand: n.rand, Crypto: crypto})
		n.nodes, machines = append(n.nodes, m), append(machines, m)
		n.handle(m, Identity{cert.Chain})
		t.Logf("chain of %d bytes, %d pieces", len(EncodeChain(cert.Chain)), piece.Count(len(EncodeChain(cert.Chain))))
	}
	n.settle()
	name := Name{KindLocator, "archer", machines[0].id.String()}
	n.handle(machines[0], Publish{Name: name, Value: []byte("192.0.2.1:4242")})
	n.run(3 * time.Second)
	if got := len(n.stores(name)); got != 3 {
		t.Errorf("%d of 3 nodes store it", got)
	}
	if r := n.ask(machines[2], name); values(r) != "[192.0.2.1:4242]" {
		t.Errorf("found %v", values(r))
	}
	// Another's signature under the same chain is refused.
	object := machines[0].machine.publication(name).object
	forged := must(ParseRecord(object.Bytes()))
	forged.Seq++
	forged.Signature = must(machines[1].machine.cfg.Crypto.Sign(forged.Digest()))
	o := piece.New(forged.Append(nil))
	first := o.Cut(0)
	put := wire.Put{Key: name.Key(), Stored: storedOf(forged, o, forged.Lifetime), Piece: &first}
	n.handle(machines[2], Received{machines[1].id, 5, wire.TypePut, put.Append(nil)})
	if c := machines[2].machine.Counters(); c.BadSign != 1 {
		t.Errorf("a forged record: %+v", c)
	}
	// A day later the certificate has ended, and with it the record.
	if _, err := machines[2].machine.cfg.Crypto.VerifyChain(must(ParseChain(machines[0].machine.chain)), start.Add(25*time.Hour)); !errors.Is(err, credential.ErrExpired) {
		t.Errorf("a day later: %v", err)
	}
}

func vectorRecord() Record {
	return Record{
		Name: Name{KindService, "archer", "web"}, Seq: 1795608000123, Lifetime: 600 * time.Second,
		Owner: nodeid.ID{1, 2, 3}, Chain: piece.ID{Root: [32]byte{4, 5}, Size: 2000}, Value: []byte("10.250.3.7:80"),
		Signature: []byte{0x30, 6, 2, 1, 1, 2, 1, 2},
	}
}

func TestRecordVector(t *testing.T) {
	r := vectorRecord()
	key, digest := r.Key(), r.Digest()
	id := piece.New(r.Append(nil)).ID()
	got := "record " + hex.EncodeToString(r.Append(nil)) + "\nkey " + key.String() + "\nsigned " +
		hex.EncodeToString(digest[:]) + "\nroot " + hex.EncodeToString(id.Root[:]) + "\n"
	const file = "testdata/record.hex"
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want := string(must(os.ReadFile(file)))
	if got != want {
		t.Errorf("got\n%s%s has\n%s", got, file, want)
	}
	line, _, _ := strings.Cut(strings.TrimPrefix(want, "record "), "\n")
	back, err := ParseRecord(must(hex.DecodeString(line)))
	if diff := cmp.Diff(r, back); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
}

func TestParseRecordRefuses(t *testing.T) {
	change := func(f func(b []byte) []byte) []byte { return f(vectorRecord().Append(nil)) }
	set := func(at int, v ...byte) []byte {
		return change(func(b []byte) []byte { copy(b[at:], v); return b })
	}
	for what, b := range map[string][]byte{
		"empty":          nil,
		"header only":    change(func(b []byte) []byte { return b[:recordHeader] }),
		"no signature":   change(func(b []byte) []byte { return b[:len(b)-8] }),
		"long signature": change(func(b []byte) []byte { return append(b, make([]byte, 65)...) }),
		"format":         set(0, 2),
		"kind":           set(1, 99),
		"kind 0":         set(1, 0),
		"namespace":      set(2, 33),
		"name":           set(3, 65),
		"lifetime 9 s":   set(12, 0, 9),
		"lifetime 3601":  set(12, 0x0e, 0x11),
		"no chain":       set(62, 0, 0),
		"huge chain":     set(62, 0xff, 0xff),
		"huge value":     set(64, 4, 1),
		"upper case":     set(recordHeader+6, 'W'),
	} {
		if _, err := ParseRecord(b); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestParseChain(t *testing.T) {
	good := EncodeChain(credential.Chain{{1, 2}, {3}})
	if chain, err := ParseChain(good); err != nil || len(chain) != 2 {
		t.Fatal(chain, err)
	}
	for what, b := range map[string][]byte{
		"empty":          nil,
		"one":            EncodeChain(credential.Chain{{1}}),
		"four":           EncodeChain(credential.Chain{{1}, {2}, {3}, {4}}),
		"cut":            good[:len(good)-1],
		"empty one":      {0, 1, 9, 0, 0},
		"a byte more":    append(bytes.Clone(good), 0),
		"length too big": {0, 9, 1, 2},
		"too long":       EncodeChain(credential.Chain{make([]byte, MaxChain), {1}}),
	} {
		if _, err := ParseChain(b); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add(vectorRecord().Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := ParseRecord(b); err == nil && !bytes.Equal(r.Append(nil), b) {
			t.Fatalf("took %x, appends %x", b, r.Append(nil))
		}
		if c, err := ParseChain(b); err == nil && !bytes.Equal(EncodeChain(c), b) {
			t.Fatalf("took chain %x, appends %x", b, EncodeChain(c))
		}
	})
}
