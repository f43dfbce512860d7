package lease_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gridappliance/credential"
	"gridappliance/overlayd/lease"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

var update = flag.Bool("update", false, "rewrite golden files")

// key returns a fixed P-256 key.
func key(name string) (*ecdsa.PrivateKey, nodeid.ID) {
	sum := sha256.Sum256([]byte(name))
	curve := elliptic.P256()
	d := new(big.Int).Mod(new(big.Int).SetBytes(sum[:]), new(big.Int).Sub(curve.Params().N, big.NewInt(1)))
	d.Add(d, big.NewInt(1))
	k, err := ecdsa.ParseRawPrivateKey(curve, d.FillBytes(make([]byte, 32)))
	if err != nil {
		panic(err)
	}
	return k, nodeid.ID(credential.NodeIDOf(&k.PublicKey))
}

func crypto(name string) (lease.Crypto, nodeid.ID) {
	k, id := key(name)
	c, err := lease.NewCrypto(k)
	if err != nil {
		panic(err)
	}
	return c, id
}

// golden compares with a file of hexadecimal.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name+".hex")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(hex.EncodeToString(got)+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if hex.EncodeToString(got) != strings.TrimSpace(string(want)) {
		t.Errorf("%s: got %x, the file has %s", name, got, want)
	}
}

// TestCertificateVector holds a certificate with real signatures, RFC 6979,
// against its file, and against what must be refused.
func TestCertificateVector(t *testing.T) {
	names := []string{"witness a", "witness b", "witness c"}
	var ids []nodeid.ID
	byID := map[nodeid.ID]lease.Crypto{}
	for _, n := range names {
		c, id := crypto(n)
		ids = append(ids, id)
		byID[id] = c
	}
	slices.SortFunc(ids, nodeid.ID.Compare)
	roster := lease.Roster{Epoch: 1, Witnesses: ids}
	digest := roster.Digest()
	golden(t, "roster-digest", digest[:])
	holder, _ := crypto("holder")
	_, holderID := key("holder")
	cert := wire.LeaseCertificate{Nonce: 7, Epoch: 1, Holder: holderID, Instance: lease.InstanceOf("vm-1"), Seq: 3, Term: 604800,
		Key: lease.AddressKey("archer", netip.MustParseAddr("10.250.3.7"))}
	for _, id := range ids[:2] {
		cert.Votes = append(cert.Votes, wire.LeaseVote{Revocations: 5, Witness: id, Incarnation: 1, End: 1795000000, Known: []uint16{1, 1, 2}})
		a := cert.Answer(len(cert.Votes) - 1)
		cert.Votes[len(cert.Votes)-1].Signature = byID[id].Sign(a.Signed(nil))
	}
	golden(t, "certificate", cert.Append(nil))
	book := lease.NewBook(holder)
	if _, err := book.Accept(roster, epoch); err != nil {
		t.Fatal(err)
	}
	if err := book.Verify(&cert); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(c *wire.LeaseCertificate){
		"another holder":          func(c *wire.LeaseCertificate) { c.Holder[0]++ },
		"another address":         func(c *wire.LeaseCertificate) { c.Key.Value = "\x0a\xfa\x03\x08" },
		"another seq":             func(c *wire.LeaseCertificate) { c.Seq++ },
		"a longer term":           func(c *wire.LeaseCertificate) { c.Term++ },
		"one vote":                func(c *wire.LeaseCertificate) { c.Votes = c.Votes[:1] },
		"one vote twice":          func(c *wire.LeaseCertificate) { c.Votes[1] = c.Votes[0] },
		"a stranger's vote":       func(c *wire.LeaseCertificate) { c.Votes[1].Witness = holderID },
		"a changed signature":     func(c *wire.LeaseCertificate) { c.Votes[0].Signature.Value[9]++ },
		"a key that is no point":  func(c *wire.LeaseCertificate) { c.Votes[0].Signature.Key = [33]byte{5} },
		"an end after the signed": func(c *wire.LeaseCertificate) { c.Votes[0].End++ },
	} {
		bad := cert
		bad.Votes = slices.Clone(cert.Votes)
		change(&bad)
		if err := book.Verify(&bad); !errors.Is(err, lease.ErrVotes) {
			t.Errorf("%s: %v, want ErrVotes", name, err)
		}
	}
	other := cert
	other.Epoch = 9
	if err := book.Verify(&other); !errors.Is(err, lease.ErrUnknownEpoch) {
		t.Errorf("epoch 9: %v", err)
	}
}

// TestIncarnationsMustAgree: the votes of a witness and of one that knows of
// its recovery do not count together.
func TestIncarnationsMustAgree(t *testing.T) {
	ids := []nodeid.ID{{0x80}, {0x81}, {0x82}}
	book := lease.NewBook(fast{})
	if _, err := book.Accept(lease.Roster{Epoch: 1, Witnesses: ids}, epoch); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		first  uint16   // the first voter's incarnation
		second []uint16 // what the second knows
		ok     bool
	}{
		{"equal", 1, []uint16{1, 1, 0}, true},
		{"the first has recovered since", 1, []uint16{2, 1, 0}, false},
		{"the second does not know that the first has recovered", 2, []uint16{1, 1, 0}, false},
		{"the third does not matter", 1, []uint16{1, 1, 7}, true},
		{"too few known", 1, []uint16{1, 1}, false},
	} {
		cert := wire.LeaseCertificate{Epoch: 1, Key: lease.AddressKey("net", netip.MustParseAddr("10.250.0.2")), Votes: []wire.LeaseVote{
			{Witness: ids[0], Incarnation: c.first, Known: []uint16{c.first, 1, 0}}, {Witness: ids[1], Incarnation: 1, Known: c.second},
		}}
		for i := range cert.Votes {
			a := cert.Answer(i)
			cert.Votes[i].Signature = fast{ids[i]}.Sign(a.Signed(nil))
		}
		if err := book.Verify(&cert); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestRealSignatures plays a few runs with ECDSA in place of the stand-in.
func TestRealSignatures(t *testing.T) {
	keys := map[nodeid.ID]lease.Crypto{}
	sign := func(id nodeid.ID, _ uint64) lease.Crypto {
		if keys[id] == nil {
			c, _ := crypto(id.String())
			keys[id] = aliased{c, id}
		}
		return keys[id]
	}
	for seed := range uint64(3) {
		v := everything("real")
		v.sign, v.duration = sign, 60*time.Second
		w := run(seed, v)
		if len(w.violations) > 0 || w.stats.grants < 5 {
			t.Errorf("seed %d: %d grants, %v", seed, w.stats.grants, w.violations)
		}
	}
}

// aliased is real ECDSA under the world's short IDs.
type aliased struct {
	lease.Crypto
	id nodeid.ID
}

func (a aliased) Verify(node nodeid.ID, s *wire.Signature, message []byte) bool {
	_, id := key(node.String())
	return a.Crypto.Verify(id, s, message)
}

// TestPlaces holds the choice of addresses and witnesses against fixed values.
func TestPlaces(t *testing.T) {
	pool := netip.MustParsePrefix("10.250.0.0/16")
	_, id := key("holder")
	var b []byte
	for i := range uint32(4) {
		addr := lease.Candidate(pool, "archer", id, i)
		if !pool.Contains(addr) {
			t.Errorf("%v is not in the pool", addr)
		}
		b = append(b, addr.AsSlice()...)
	}
	golden(t, "candidates", b)
	roster := lease.Roster{Epoch: 1}
	for i := range 9 {
		roster.Witnesses = append(roster.Witnesses, nodeid.ID{byte(i)})
	}
	list := roster.Replicas(lease.AddressKey("archer", netip.MustParseAddr("10.250.3.7")))
	if len(list) != 5 {
		t.Fatalf("%d witnesses of a key", len(list))
	}
	b = nil
	for _, id := range list {
		b = append(b, id[0])
	}
	golden(t, "replicas", b)
}

// TestCover: whatever the roster's size, as many as cover have met every
// majority of every key's witnesses; checked by counting.
func TestCover(t *testing.T) {
	for n := 1; n <= 9; n++ {
		k := min(n, 5)
		if missing := n - lease.Cover(n); missing >= lease.Majority(k) {
			t.Errorf("%d witnesses: %d of them miss a majority of %d", n, lease.Cover(n), k)
		}
		if lease.Cover(n) < lease.Majority(n) {
			t.Errorf("%d witnesses: cover %d is no majority", n, lease.Cover(n))
		}
		if others := n - 1 - lease.CoverOthers(n); n > 1 && others >= lease.Majority(k)-1 {
			t.Errorf("%d witnesses: %d others miss a majority without me", n, lease.CoverOthers(n))
		}
	}
}

func TestNames(t *testing.T) {
	a, err := lease.NameKey("net", "My-Host")
	b, _ := lease.NameKey("net", "my-host")
	if err != nil || a != b {
		t.Errorf("My-Host and my-host are %v and %v, %v", a, b, err)
	}
	for _, bad := range []string{"", "C250000002", "c250000002", "master", "master-1", "witness-1", "infra", "condor", "root", "a.b", "-a", "a_b", strings.Repeat("x", 64)} {
		if k, err := lease.NameKey("net", bad); !errors.Is(err, lease.ErrName) {
			t.Errorf("%q: %v, %v", bad, k, err)
		}
	}
}
