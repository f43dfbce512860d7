package credential

import (
	"bytes"
	"crypto/x509"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// next returns a signed descriptor made from d by change, and its text.
func next(t *testing.T, d *Descriptor, change func(*Descriptor), keys ...signer) *Descriptor {
	t.Helper()
	n := *d
	n.signed, n.Masters, n.Witnesses = nil, slices.Clone(d.Masters), slices.Clone(d.Witnesses)
	change(&n)
	for i, k := range keys {
		if i == 0 {
			if err := n.sign(k.key); err != nil {
				t.Fatal(err)
			}
		} else if err := n.signed.sign(k.key); err != nil {
			t.Fatal(err)
		}
	}
	parsed, err := ParseDescriptor(n.Text())
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func mustAccept(t *testing.T, trust *Trust, d *Descriptor) {
	t.Helper()
	if changed, err := trust.AcceptDescriptor(d.Text()); err != nil || !changed {
		t.Fatalf("version %d: changed %v, error %v", d.Version, changed, err)
	}
}

// reload puts a Trust through its text, as a restart does.
func reload(t *testing.T, trust *Trust) *Trust {
	t.Helper()
	text := trust.Append(nil)
	again, err := ParseTrust(text)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again.Append(nil), text) {
		t.Fatalf("text changed on the way:\n%s\n%s", text, again.Append(nil))
	}
	return again
}

func TestTrustDescriptor(t *testing.T) {
	w := newWorld(t)
	root, v1 := w.grid.root, w.grid.Descriptor
	version := func(n uint64, issued time.Duration) func(*Descriptor) {
		return func(d *Descriptor) { d.Version, d.Issued = n, testTime.Add(issued) }
	}
	v2 := next(t, v1, version(2, time.Hour), root)
	v2b := next(t, v1, func(d *Descriptor) { version(2, time.Hour)(d); d.Bootstrap = []string{"evil.example.org:4242"} }, root)
	v3 := next(t, v1, version(3, 2*time.Hour), root)

	t.Run("newer replaces, older is refused, equal changes nothing", func(t *testing.T) {
		var trust Trust
		if d, err := trust.Descriptor(); d != nil || err != nil {
			t.Fatalf("empty memory: %v, %v", d, err)
		}
		mustAccept(t, &trust, v1)
		mustAccept(t, &trust, v3)
		_, err := trust.AcceptDescriptor(v2.Text())
		wantRefusal(t, err, ErrOlder, "version 2", "version 3")
		if changed, err := trust.AcceptDescriptor(v3.Text()); changed || err != nil {
			t.Errorf("the same again: changed %v, error %v", changed, err)
		}
		after := reload(t, &trust)
		_, err = after.AcceptDescriptor(v2.Text())
		wantRefusal(t, err, ErrOlder, "version 2", "version 3")
		if got := after.Newest(); !got.Equal(testTime.Add(2 * time.Hour)) {
			t.Errorf("newest signed time %v", got)
		}
		if len(after.Alarms()) > 0 {
			t.Errorf("alarms %q", after.Alarms())
		}
	})
	t.Run("the same body with a rewritten or second signature is the same object", func(t *testing.T) {
		var trust Trust
		mustAccept(t, &trust, v2)
		again := next(t, v2, func(*Descriptor) {}, root)
		if bytes.Equal(again.Text(), v2.Text()) {
			t.Fatal("ECDSA gave the same signature twice")
		}
		if changed, err := trust.AcceptDescriptor(again.Text()); changed || err != nil {
			t.Errorf("changed %v, error %v", changed, err)
		}
	})
	t.Run("two of one version", func(t *testing.T) {
		var trust Trust
		mustAccept(t, &trust, v1)
		mustAccept(t, &trust, v2)
		_, err := trust.AcceptDescriptor(v2b.Text())
		wantRefusal(t, err, ErrConflict, KeyID(v2.Hash()).String(), KeyID(v2b.Hash()).String())
		after := reload(t, &trust)
		if len(after.Alarms()) != 1 {
			t.Errorf("alarms %q, want one", after.Alarms())
		}
		if d, err := after.Descriptor(); err != nil || d.Version != 1 {
			t.Errorf("counts: %v, %v; want version 1", d, err)
		}
		for _, d := range []*Descriptor{v2, v2b} {
			if _, err := after.AcceptDescriptor(d.Text()); !errors.Is(err, ErrConflict) {
				t.Errorf("offered again: %v", err)
			}
		}
		mustAccept(t, after, v3)
		if d, _ := after.Descriptor(); d.Version != 3 {
			t.Errorf("after the conflict: version %d", d.Version)
		}
		if len(after.Alarms()) != 1 {
			t.Error("the alarm is gone")
		}
	})
	t.Run("two of the first version", func(t *testing.T) {
		var trust Trust
		mustAccept(t, &trust, v2)
		_, err := trust.AcceptDescriptor(v2b.Text())
		wantRefusal(t, err, ErrConflict)
		if d, err := trust.Descriptor(); d != nil || !errors.Is(err, ErrConflict) {
			t.Errorf("counts: %v, %v", d, err)
		}
		if _, err := trust.Verifier(); !errors.Is(err, ErrConflict) {
			t.Errorf("verifier: %v", err)
		}
	})
	t.Run("signed by another grid's root", func(t *testing.T) {
		other := newWorld(t)
		var trust Trust
		mustAccept(t, &trust, v1)
		fake := next(t, v1, version(9, 0), other.grid.root)
		_, err := trust.AcceptDescriptor(fake.Text())
		wantRefusal(t, err, ErrSignature)
		own := next(t, v1, func(d *Descriptor) { version(9, 0)(d); d.Roots = []Certificate{other.grid.root.cert.Raw} }, other.grid.root)
		_, err = trust.AcceptDescriptor(own.Text())
		wantRefusal(t, err, ErrSignature)
		if !trust.Newest().Equal(testTime) {
			t.Error("a forged descriptor moved the clock")
		}
	})
	t.Run("another grid", func(t *testing.T) {
		var trust Trust
		mustAccept(t, &trust, v1)
		_, err := trust.AcceptDescriptor(next(t, v1, func(d *Descriptor) { d.Grid = "rover" }, root).Text())
		wantRefusal(t, err, ErrWrongGrid, "rover", "archer")
	})
}

func TestRenewedRoot(t *testing.T) {
	w := newWorld(t)
	old := w.grid.root
	fresh, err := newRoot("archer", "grid root", rootPathLength, testTime)
	if err != nil {
		t.Fatal(err)
	}
	v1 := w.grid.Descriptor
	v2 := next(t, v1, func(d *Descriptor) { d.Version = 2; d.Roots = []Certificate{old.cert.Raw, fresh.cert.Raw} }, old)
	v3 := next(t, v2, func(d *Descriptor) { d.Version = 3; d.Roots = []Certificate{fresh.cert.Raw} }, fresh)
	early := next(t, v1, func(d *Descriptor) { d.Version = 3; d.Roots = []Certificate{fresh.cert.Raw} }, fresh)
	byNew := forge(t, holderAttributes(), fresh, nil)

	var trust Trust
	mustAccept(t, &trust, v1)
	_, err = trust.AcceptDescriptor(early.Text())
	wantRefusal(t, err, ErrSignature) // the old root has not signed the new one yet
	steps := []struct {
		d        *Descriptor
		old, new error
	}{{v1, nil, ErrWrongGrid}, {v2, nil, nil}, {v3, ErrWrongGrid, nil}}
	for i, step := range steps {
		if i > 0 {
			mustAccept(t, &trust, step.d)
		}
		v, err := trust.Verifier()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.VerifyHolder(chainOf(w.holder), testTime); !errors.Is(err, step.old) {
			t.Errorf("version %d, holder of the old root: %v, want %v", step.d.Version, err, step.old)
		}
		if _, err := v.VerifyHolder(chainOf(byNew), testTime); !errors.Is(err, step.new) {
			t.Errorf("version %d, holder of the new root: %v, want %v", step.d.Version, err, step.new)
		}
	}
}

func TestDescriptorTampered(t *testing.T) {
	w := newWorld(t)
	d := w.grid.Descriptor
	for i := range d.signed.body {
		s := *d.signed
		s.body = slices.Clone(s.body)
		s.body[i] ^= 0x01
		bad, err := ParseDescriptor(s.text())
		if err != nil {
			continue
		}
		if err := bad.CheckSignature(nil); err == nil {
			t.Fatalf("byte %d of the body changed, accepted", i)
		}
	}
	t.Run("unsigned", func(t *testing.T) {
		s := *d.signed
		s.signatures = nil
		bad, err := ParseDescriptor(s.text())
		if err != nil {
			t.Fatal(err)
		}
		wantRefusal(t, bad.CheckSignature(nil), ErrSignature)
	})
	t.Run("signature of another type of object", func(t *testing.T) {
		s := &signed{label: revocationsLabel, body: d.signed.body}
		if err := s.sign(w.grid.root.key); err != nil {
			t.Fatal(err)
		}
		s.label = descriptorLabel
		bad, err := ParseDescriptor(s.text())
		if err != nil {
			t.Fatal(err)
		}
		wantRefusal(t, bad.CheckSignature(nil), ErrSignature)
	})
	t.Run("root expired", func(t *testing.T) {
		wantRefusal(t, d.Verify(nil, testTime.Add(rootLifetime+time.Hour)), ErrExpired)
		wantRefusal(t, d.Verify(nil, testTime.Add(-25*time.Hour)), ErrNotYetValid)
		if err := d.CheckSignature(nil); err != nil {
			t.Error(err)
		}
	})
}

func TestDescriptorStrict(t *testing.T) {
	w := newWorld(t)
	body := string(w.grid.Descriptor.signed.body)
	text := func(body string) []byte {
		s := &signed{label: descriptorLabel, body: []byte(body)}
		if err := s.sign(w.grid.root.key); err != nil {
			t.Fatal(err)
		}
		return s.text()
	}
	if _, err := ParseDescriptor(text(body)); err != nil {
		t.Fatalf("control: %v", err)
	}
	crlf := bytes.ReplaceAll(text(body), []byte("\n"), []byte("\r\n"))
	if d, err := ParseDescriptor(crlf); err != nil || d.CheckSignature(nil) != nil {
		t.Errorf("CRLF: %v", err)
	}
	swap := func(old, new string) []byte {
		if !bytes.Contains([]byte(body), []byte(old)) {
			t.Fatalf("no %s in the body", old)
		}
		return text(string(bytes.Replace([]byte(body), []byte(old), []byte(new), 1)))
	}
	for name, bad := range map[string][]byte{
		"unknown field":        swap(`"version":1`, `"version":1,"colour":"red"`),
		"field twice":          swap(`"version":1`, `"version":2,"version":1`),
		"field in capitals":    swap(`"version"`, `"Version"`),
		"missing field":        swap(`"policy_hash":""`, `"epoch":1`),
		"space":                swap(`"version":1`, `"version": 1`),
		"trailing data":        text(body + "{}"),
		"no newline":           text(body[:len(body)-1]),
		"wrong type":           swap(`"version":1`, `"version":"1"`),
		"unknown format":       swap(`"format":1`, `"format":2`),
		"version 0":            swap(`"version":1`, `"version":0`),
		"time with fractions":  swap(`"issued":"2026-11-21T12:00:00Z"`, `"issued":"2026-11-21T12:00:00.5Z"`),
		"time in another zone": swap(`"issued":"2026-11-21T12:00:00Z"`, `"issued":"2026-11-21T14:00:00+02:00"`),
		"master not in pool":   swap(`"address":"10.250.0.2"`, `"address":"10.249.0.2"`),
		"master at x.x.x.1":    swap(`"address":"10.250.0.2"`, `"address":"10.250.0.1"`),
		"two masters, one key": swap(w.grid.Descriptor.Masters[0].ID.String(), w.grid.Descriptor.Masters[1].ID.String()),
		"masters, one address": swap(`"address":"10.250.0.2"`, `"address":"10.250.0.3"`),
		"unknown namespace":    swap(`"namespace":"one"`, `"namespace":"none"`),
		"overlapping pools":    swap(`"pool":"10.251.0.0/16"`, `"pool":"10.250.0.0/15"`),
		"bad endpoint":         swap(`"bootstrap":null`, `"bootstrap":["example.org"]`),
		"bad policy hash":      swap(`"policy_hash":""`, `"policy_hash":"00"`),
		"text before":          append([]byte("hello\n"), text(body)...),
		"headers":              bytes.Replace(text(body), []byte("-----\n"), []byte("-----\nProc-Type: 4\n\n"), 1),
		"empty":                nil,
		"another block first":  w.grid.root.pem(),
	} {
		if _, err := ParseDescriptor(bad); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: got %v, want ErrFormat", name, err)
		}
	}
}

func (s signer) pem() []byte { return Certificate(s.cert.Raw).PEM() }

func TestLeasable(t *testing.T) {
	d := newWorld(t).grid.Descriptor
	for addr, want := range map[string]bool{
		"10.250.0.0": false, "10.250.255.255": false, // network, broadcast
		"10.250.0.1": false, "10.250.77.1": false, // x.x.x.1
		"10.250.0.2": false, "10.250.0.4": false, // masters
		"10.250.0.5": true, "10.250.1.0": true, "10.250.3.255": true, "10.250.255.254": true,
		"10.249.0.5": false, "10.251.0.5": false, "fd00::5": false, "::ffff:10.250.0.5": false,
	} {
		if got := d.Leasable("one", netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: leasable %v, want %v", addr, got, want)
		}
	}
	if d.Leasable("none", netip.MustParseAddr("10.250.0.5")) {
		t.Error("leasable in a namespace that does not exist")
	}
	if !d.Leasable("two", netip.MustParseAddr("10.251.0.2")) {
		t.Error("masters of one namespace take addresses of another")
	}
}

// revocations signs a list of the entries.
func revocations(t *testing.T, by signer, issuer Certificate, version uint64, entries ...Revocation) *RevocationList {
	t.Helper()
	l := &RevocationList{Grid: "archer", Version: version, Issued: testTime.Add(time.Duration(version) * time.Minute), Issuer: issuer, Entries: entries}
	if err := l.sign(by.key); err != nil {
		t.Fatal(err)
	}
	parsed, err := ParseRevocations(l.Text())
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func entry(c *x509.Certificate) Revocation {
	return Revocation{Serial: serialText(c), Key: keyIDOfCert(c), Until: c.NotAfter, Reason: "stolen"}
}

func TestRevocation(t *testing.T) {
	w := newWorld(t)
	node := forgeFor(t, w.key, w.nodeAttributes(), w.holder, nil)
	below := forgeFor(t, w.key, w.nodeAttributes(), w.issued, nil)
	byRoot, byIssuer := chainOf(node, w.holder), chainOf(below, w.issued, w.issuer)
	root, issuer := w.grid.root, Certificate(w.issuer.cert.Raw)

	bySerial, byKey := entry(w.holder.cert), entry(w.holder.cert)
	bySerial.Key, byKey.Serial = KeyID{}, ""
	kept := entry(w.issuer.cert)
	kept.Keep = []Kept{keep(w.issued.cert)}
	// Someone with the issuer's key gives a kept holder's serial and key away again.
	twin := forgeFor(t, w.issued.key, func() *attributes { a := holderAttributes(); a.groups = []string{"chemistry"}; return a }(), w.issuer,
		func(c *x509.Certificate) { c.SerialNumber = w.issued.cert.SerialNumber })

	belowTwin := forgeFor(t, w.key, func() *attributes { a := w.nodeAttributes(); a.groups = []string{"chemistry"}; return a }(), twin, nil)

	for _, tt := range []struct {
		name  string
		list  *RevocationList
		chain Chain
		want  error
	}{
		{"nothing", revocations(t, root, nil, 1), byRoot, nil},
		{"holder by serial", revocations(t, root, nil, 1, bySerial), byRoot, ErrRevoked},
		{"holder by key", revocations(t, root, nil, 1, byKey), byRoot, ErrRevoked},
		{"holder by key, another holder", revocations(t, root, nil, 1, byKey), byIssuer, nil},
		{"node by key", revocations(t, root, nil, 1, Revocation{Key: keyIDOfCert(node.cert)}), byRoot, ErrRevoked},
		{"root revokes an issuer's holder", revocations(t, root, nil, 1, entry(w.issued.cert)), byIssuer, ErrRevoked},
		{"issuer revokes its holder", revocations(t, w.issuer, issuer, 1, entry(w.issued.cert)), byIssuer, ErrRevoked},
		{"issuer revokes a node below it", revocations(t, w.issuer, issuer, 1, Revocation{Key: keyIDOfCert(below.cert)}), byIssuer, ErrRevoked},
		{"issuer revokes what it did not sign", revocations(t, w.issuer, issuer, 1, entry(w.holder.cert)), byRoot, nil},
		{"root revokes the issuer", revocations(t, root, nil, 1, entry(w.issuer.cert)), byIssuer, ErrRevoked},
		{"root revokes the issuer, not its own holders", revocations(t, root, nil, 1, entry(w.issuer.cert)), byRoot, nil},
		{"root revokes the issuer and keeps the holder", revocations(t, root, nil, 1, kept), byIssuer, nil},
		{"control: the twin before that", revocations(t, root, nil, 1), chainOf(belowTwin, twin, w.issuer), nil},
		{"root keeps a holder, not its twin", revocations(t, root, nil, 1, kept), chainOf(belowTwin, twin, w.issuer), ErrRevoked},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := w.verifier(t, tt.list).VerifyNode(tt.chain, testTime)
			if !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
	t.Run("rewriting the signature does not evade it", func(t *testing.T) {
		chain := Chain{node.cert.Raw, rewriteSignature(t, w.holder.cert)}
		if _, err := w.verifier(t).VerifyNode(chain, testTime); err != nil {
			t.Fatalf("control: %v", err)
		}
		_, err := w.verifier(t, revocations(t, root, nil, 1, entry(w.holder.cert))).VerifyNode(chain, testTime)
		wantRefusal(t, err, ErrRevoked, serialText(w.holder.cert))
		// Nor does it cost a kept holder its keeping.
		_, err = w.verifier(t, revocations(t, root, nil, 1, kept)).VerifyHolder(Chain{rewriteSignature(t, w.issued.cert), issuer}, testTime)
		if err != nil {
			t.Errorf("kept: %v", err)
		}
	})
	t.Run("of another grid with this root", func(t *testing.T) {
		l := &RevocationList{Grid: "rover", Version: 1, Issued: testTime}
		if err := l.sign(root.key); err != nil {
			t.Fatal(err)
		}
		_, err := NewVerifier(w.grid.Descriptor, l)
		wantRefusal(t, err, ErrWrongGrid, "rover", "archer")
	})
	t.Run("not signed by a root or an issuer of the grid", func(t *testing.T) {
		other := newWorld(t)
		stranger := Certificate(other.issuer.cert.Raw)
		for _, l := range []*RevocationList{
			revocations(t, other.grid.root, nil, 1),
			revocations(t, w.holder, nil, 1),
			revocations(t, w.issuer, nil, 1),
			revocations(t, w.holder, issuer, 1),
			revocations(t, other.issuer, stranger, 1),
			revocations(t, w.holder, Certificate(w.holder.cert.Raw), 1),
		} {
			if _, err := NewVerifier(w.grid.Descriptor, l); err == nil {
				t.Errorf("list of %v accepted", l.signer)
			}
		}
	})
}

func TestTrustRevocations(t *testing.T) {
	w := newWorld(t)
	root := w.grid.root
	node := forgeFor(t, w.key, w.nodeAttributes(), w.holder, nil)
	chain := chainOf(node, w.holder)
	gone := entry(w.holder.cert)
	past := entry(w.issued.cert)
	past.Until = testTime
	v1 := revocations(t, root, nil, 1)
	v2 := revocations(t, root, nil, 2, gone, past)
	v2b := revocations(t, root, nil, 2)
	v3 := revocations(t, root, nil, 3, gone) // past has ended
	v4 := revocations(t, root, nil, 4)

	var trust Trust
	if _, err := trust.AcceptRevocations(v1.Text()); err == nil {
		t.Error("accepted before a descriptor")
	}
	mustAccept(t, &trust, w.grid.Descriptor)
	for _, l := range []*RevocationList{v1, v2} {
		if changed, err := trust.AcceptRevocations(l.Text()); !changed || err != nil {
			t.Fatalf("version %d: %v, %v", l.Version, changed, err)
		}
	}
	revoked := func(trust *Trust) error {
		v, err := trust.Verifier()
		if err != nil {
			t.Fatal(err)
		}
		_, err = v.VerifyNode(chain, testTime)
		return err
	}
	wantRefusal(t, revoked(&trust), ErrRevoked)
	_, err := trust.AcceptRevocations(v1.Text())
	wantRefusal(t, err, ErrOlder, "version 1", "version 2")

	_, err = trust.AcceptRevocations(v2b.Text())
	wantRefusal(t, err, ErrConflict)
	after := reload(t, &trust)
	wantRefusal(t, revoked(after), ErrRevoked) // a conflict takes no revocation back
	if len(after.Alarms()) != 1 {
		t.Errorf("alarms %q, want one", after.Alarms())
	}
	if _, lists := after.Publishable(); len(lists) != 0 {
		t.Error("a list in conflict is passed on")
	}
	for _, l := range []*RevocationList{v2, v2b} {
		if _, err := after.AcceptRevocations(l.Text()); !errors.Is(err, ErrConflict) {
			t.Errorf("offered again: %v", err)
		}
	}
	if changed, err := after.AcceptRevocations(v3.Text()); !changed || err != nil {
		t.Fatalf("version 3: %v, %v", changed, err)
	}
	_, err = after.AcceptRevocations(v4.Text())
	wantRefusal(t, err, ErrShrunk, gone.Serial)
	if d, lists := after.Publishable(); !bytes.Equal(d, w.grid.Descriptor.Text()) || len(lists) != 1 || !bytes.Equal(lists[0], v3.Text()) {
		t.Error("publishable is not the descriptor and version 3")
	}
	// An issuer's list stands beside the roots'.
	if changed, err := after.AcceptRevocations(revocations(t, w.issuer, w.issuer.cert.Raw, 1).Text()); !changed || err != nil {
		t.Errorf("an issuer's first list: %v, %v", changed, err)
	}
	if !after.Newest().Equal(testTime.Add(3 * time.Minute)) {
		t.Errorf("newest signed time %v", after.Newest())
	}
}

func TestKnown(t *testing.T) {
	w := newWorld(t)
	root, v1 := w.grid.root, w.grid.Descriptor
	version := func(n uint64, bootstrap string) func(*Descriptor) {
		return func(d *Descriptor) {
			d.Version, d.Issued, d.Bootstrap = n, testTime.Add(time.Hour), []string{bootstrap}
		}
	}
	v2, twin := next(t, v1, version(2, "a.example.org:1"), root), next(t, v1, version(2, "b.example.org:1"), root)
	var trust Trust
	if known := trust.Known(); len(known) != 0 {
		t.Fatalf("an empty memory knows %d objects", len(known))
	}
	mustAccept(t, &trust, v1)
	mustAccept(t, &trust, v2)
	list := revocations(t, root, nil, 3, entry(w.holder.cert))
	if _, err := trust.AcceptRevocations(list.Text()); err != nil {
		t.Fatal(err)
	}
	_, err := trust.AcceptDescriptor(twin.Text())
	wantRefusal(t, err, ErrConflict)
	known := trust.Known()
	if len(known) != 3 {
		t.Fatalf("knows %d objects, want 3", len(known))
	}
	if k := known[0]; k.Version != 2 || !k.Conflict || k.Previous || k.Revocations || !bytes.Equal(k.Text, v2.Text()) {
		t.Errorf("the newest descriptor: version %d, conflict %v", k.Version, k.Conflict)
	}
	if k := known[1]; k.Version != 1 || k.Conflict || !k.Previous {
		t.Errorf("the descriptor before: version %d, previous %v", k.Version, k.Previous)
	}
	if k := known[2]; k.Version != 3 || !k.Revocations || k.Signer != (KeyID{}) || k.Body != list.hash() {
		t.Errorf("the list: version %d, signer %v", k.Version, k.Signer)
	}
	if k, err := KnownBy(twin.Text()); err != nil || k.Version != 2 || k.Body == known[0].Body || k.Revocations {
		t.Errorf("the twin: %+v, %v", k, err)
	}
	if k, err := KnownBy(list.Text()); err != nil || !k.Revocations || k.Body != known[2].Body {
		t.Errorf("the list: %+v, %v", k, err)
	}
	if _, err := KnownBy([]byte("x")); !errors.Is(err, ErrFormat) {
		t.Errorf("garbage: %v", err)
	}
}
