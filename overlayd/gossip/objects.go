package gossip

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"gridappliance/credential"
	"gridappliance/overlayd/piece"
	"gridappliance/overlayd/wire"
)

// maxPages bounds a peer's list: two descriptors, the one before, and two lists
// of each of 64 signers.
const maxPages = (3 + 2*64 + wire.MaxObjects - 1) / wire.MaxObjects

// maxTwins bounds the proofs kept: the descriptor's and one for each signer.
const maxTwins = 1 + 64

// slot is where versions are counted.
type slot struct {
	kind   wire.ObjectKind
	signer [32]byte
}

// object is a descriptor or list that is here.
type object struct {
	wire.Object
	pieces   *piece.Object
	previous bool // a descriptor that only helps others to follow
}

func (o object) slot() slot { return slot{o.Kind, o.Signer} }

func objectOf(k credential.Known) object {
	pieces := piece.New(k.Text)
	id := pieces.ID()
	o := object{pieces: pieces, previous: k.Previous, Object: wire.Object{
		Kind: wire.ObjectDescriptor, Signer: k.Signer, Version: k.Version, Body: k.Body, Root: id.Root, Size: uint32(id.Size),
	}}
	if k.Revocations {
		o.Kind = wire.ObjectRevocations
	}
	return o
}

// before orders objects as they must be accepted: descriptors first, the older
// first, because a root may be replaced between two.
func before(a, b wire.Object) int {
	switch {
	case a.Kind != b.Kind:
		return int(a.Kind) - int(b.Kind)
	case a.Version < b.Version:
		return -1
	case a.Version > b.Version:
		return 1
	}
	if c := bytes.Compare(a.Signer[:], b.Signer[:]); c != 0 {
		return c
	}
	return bytes.Compare(a.Body[:], b.Body[:])
}

// news says whether an object is newer than what is here, or the twin of it.
func (m *Machine) news(o wire.Object) bool {
	known := 0
	for _, mine := range m.all() {
		if mine.Kind != o.Kind || mine.Signer != o.Signer || mine.previous {
			continue
		}
		if o.Version < mine.Version || o.Version == mine.Version && o.Body == mine.Body {
			return false
		}
		if o.Version == mine.Version {
			known++
		}
	}
	return known < 2
}

func (m *Machine) all() []object { return slices.Concat(m.objects, m.twins) }

// here returns the object of that ID, or nil.
func (m *Machine) here(id piece.ID) *piece.Object {
	for _, o := range m.all() {
		if o.pieces.ID() == id {
			return o.pieces
		}
	}
	return nil
}

// refresh takes from Trust what is here.
func (m *Machine) refresh() {
	m.objects = m.objects[:0]
	for _, k := range m.cfg.Trust.Known() {
		m.objects = append(m.objects, objectOf(k))
	}
	m.twins = slices.DeleteFunc(m.twins, func(twin object) bool {
		return !slices.ContainsFunc(m.objects, func(o object) bool { return o.slot() == twin.slot() && o.Version == twin.Version })
	})
	m.versions = wire.Versions{Digest: m.digest()}
	if d, err := m.cfg.Trust.Descriptor(); err == nil && d != nil {
		m.versions.Descriptor = d.Version
	}
	for _, o := range m.objects {
		if o.slot() == (slot{kind: wire.ObjectRevocations}) {
			m.versions.Revocations = o.Version
		}
	}
}

// digest returns the first 8 bytes of SHA-256 over kind, signer, version and
// body of all objects but the previous descriptor, in the order of before.
func (m *Machine) digest() [8]byte {
	var rows []wire.Object
	for _, o := range m.all() {
		if !o.previous {
			rows = append(rows, o.Object)
		}
	}
	slices.SortFunc(rows, before)
	var b []byte
	for _, o := range rows {
		b = append(append(b, byte(o.Kind)), o.Signer[:]...)
		b = append(binary.BigEndian.AppendUint64(b, o.Version), o.Body[:]...)
	}
	hash := sha256.Sum256(b)
	return [8]byte(hash[:8])
}

func (m *Machine) pages() uint8 {
	return uint8((len(m.objects) + len(m.twins) + wire.MaxObjects - 1) / wire.MaxObjects)
}

// listPage returns one page of the list, empty beyond its end.
func (m *Machine) listPage(page uint8) wire.Gossip {
	g := wire.Gossip{Versions: m.versions, Page: page, Pages: m.pages()}
	all := m.all()
	slices.SortFunc(all, func(a, b object) int { return before(a.Object, b.Object) })
	from := min(int(page)*wire.MaxObjects, len(all))
	for _, o := range all[from:min(from+wire.MaxObjects, len(all))] {
		g.Objects = append(g.Objects, o.Object)
	}
	return g
}

// publish takes an object from a person.
func (m *Machine) publish(now time.Time, text []byte) error {
	if len(text) > piece.MaxObject {
		return piece.ErrSize
	}
	return m.accept(now, text)
}

// accept has Trust decide about an object. An error means that the object is
// refused, ErrConflict that it is the twin of another; of an older or known one
// there is none.
func (m *Machine) accept(now time.Time, text []byte) error {
	k, err := credential.KnownBy(text)
	if err != nil {
		return err
	}
	var changed bool
	if k.Revocations {
		changed, err = m.cfg.Trust.AcceptRevocations(text)
	} else {
		changed, err = m.cfg.Trust.AcceptDescriptor(text)
	}
	switch {
	case errors.Is(err, credential.ErrConflict):
		changed = m.keepTwin(objectOf(k)) || changed
		m.alarm(objectOf(k), err)
	case errors.Is(err, credential.ErrOlder):
		return nil // a newer one came while this was fetched
	case err != nil:
		return err
	case changed:
		m.count.Accepted++
	}
	if changed {
		m.changed(now, objectOf(k))
	}
	return err
}

// keepTwin keeps the second object of a version as proof, and reports whether
// it is new.
func (m *Machine) keepTwin(twin object) bool {
	known := slices.ContainsFunc(m.all(), func(o object) bool { return o.slot() == twin.slot() && o.Body == twin.Body })
	if known || len(m.twins) >= maxTwins {
		return false
	}
	m.twins = append(m.twins, twin)
	return true
}

func (m *Machine) alarm(o object, err error) {
	if m.alarmed[o.slot()] == o.Version {
		return
	}
	m.alarmed[o.slot()] = o.Version
	m.count.Conflicts++
	m.do(Alarm{err})
}

// changed tells core, and all peers, that Trust has changed by an object.
func (m *Machine) changed(now time.Time, by object) {
	m.refresh()
	descriptor := by.Kind == wire.ObjectDescriptor
	m.recent = nil
	for _, o := range m.all() {
		if o.slot() == by.slot() && !o.previous {
			m.recent = append(m.recent, o.Object)
		}
	}
	if descriptor {
		m.forgive()
	}
	m.do(Changed{Versions: m.versions, Descriptor: descriptor, Revocations: !descriptor})
	for _, p := range m.peers {
		if p.versions.Digest != m.versions.Digest {
			p.pushes, p.pushAt = maxPushes, now
		}
	}
}
