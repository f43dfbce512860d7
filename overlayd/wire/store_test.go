package wire

import (
	"bytes"
	"errors"
	"testing"
)

func hash(first byte) (h [32]byte) {
	for i := range h {
		h[i] = first + byte(i)
	}
	return h
}

var (
	somePiece = Piece{Root: hash(1), Size: 1000, Index: 1, Proof: [][32]byte{hash(0x40)}, Data: []byte("the end")}
	stored    = Stored{Owner: id(0x20), Seq: 1795608000123, Remaining: 60_000, Root: hash(1), Size: 1000}
	versions  = Versions{Descriptor: 7, Revocations: 3, Digest: [8]byte{1, 2, 3, 4, 5, 6, 7, 8}}
	object    = Object{Kind: ObjectRevocations, Signer: hash(0x10), Version: 4, Body: hash(0x50), Root: hash(0x90), Size: 3000}
)

// storeVectors are the messages of dht, gossip and piece.
var storeVectors = []vector{
	{"fetch", Fetch{Root: hash(1), Size: 1000, First: 1, Mask: 3}, parse(ParseFetch)},
	{"piece", somePiece, parse(ParsePiece)},
	{"gossip", Gossip{Flags: GossipConfirm, Versions: versions, Page: 1, Pages: 2, Objects: []Object{
		{Kind: ObjectDescriptor, Version: 7, Body: hash(0x51), Root: hash(0x91), Size: 2000}, object,
	}}, parse(ParseGossip)},
	{"gossip-want", Gossip{Flags: GossipWant, Versions: versions}, parse(ParseGossip)},
	{"get", Get{Key: id(0x60), Flags: GetNear}, parse(ParseGet)},
	{"records", Records{
		Key: id(0x60), Replicas: []Replica{{id(0x70), Holder{1, 2}}, {id(0x71), Holder{3}}}, Records: []Stored{stored}, Piece: &somePiece,
	}, parse(ParseRecords)},
	{"records-none", Records{Key: id(0x60)}, parse(ParseRecords)},
	{"put", Put{Key: id(0x60), Stored: stored, Piece: &somePiece}, parse(ParsePut)},
	{"put-offer", Put{Key: id(0x60), Stored: stored}, parse(ParsePut)},
	{"put-answer", PutAnswer{Key: id(0x60), Owner: id(0x20), Seq: 9, Status: PutQuota}, parse(ParsePutAnswer)},
}

func TestStoreVectors(t *testing.T) {
	check(t, storeVectors)
}

// TestStoreCuts cuts each vector short. Where a piece ends a message, its data
// may be shorter, and a whole piece may be missing.
func TestStoreCuts(t *testing.T) {
	whole := map[string][]int{} // cuts that are messages too
	for n := range len(somePiece.Data) {
		if n > 0 {
			whole["piece"] = append(whole["piece"], n)
		}
	}
	piece := len(somePiece.Append(nil))
	whole["put"], whole["records"] = append(whole["piece"], piece), append(whole["piece"], piece)
	for _, v := range storeVectors {
		b := v.m.Append(nil)
		for n := range b {
			_, err := v.parse(b[:n])
			ok := false
			for _, cut := range whole[v.name] {
				ok = ok || len(b)-n == cut
			}
			if ok != (err == nil) || err != nil && !errors.Is(err, ErrMalformed) {
				t.Errorf("%s cut to %d of %d bytes: %v", v.name, n, len(b), err)
			}
		}
	}
}

func TestStoreBounds(t *testing.T) {
	long := somePiece
	long.Data = make([]byte, MaxPieceData+1)
	deep := somePiece
	deep.Proof = make([][32]byte, maxProof+1)
	for _, c := range []struct {
		name string
		body []byte
		p    anyParse
	}{
		{"fetch of nothing", Fetch{Size: 1}.Append(nil), parse(ParseFetch)},
		{"769 bytes of data", long.Append(nil), parse(ParsePiece)},
		{"8 hashes", deep.Append(nil), parse(ParsePiece)},
		{"10 objects", Gossip{Objects: make([]Object, MaxObjects+1)}.Append(nil), parse(ParseGossip)},
		{"object of kind 0", Gossip{Objects: make([]Object, 1)}.Append(nil), parse(ParseGossip)},
		{"descriptor with a signer", Gossip{Objects: []Object{{Kind: ObjectDescriptor, Signer: hash(1)}}}.Append(nil), parse(ParseGossip)},
		{"unknown flag", Gossip{Flags: 4}.Append(nil), parse(ParseGossip)},
		{"get with an unknown flag", Get{Flags: 2}.Append(nil), parse(ParseGet)},
		{"9 replicas", Records{Replicas: make([]Replica, MaxReplicas+1)}.Append(nil), parse(ParseRecords)},
		{"9 records", Records{Records: make([]Stored, MaxStored+1)}.Append(nil), parse(ParseRecords)},
		{"piece of no record", Records{Piece: &somePiece}.Append(nil), parse(ParseRecords)},
		{"piece of two records", Records{Records: make([]Stored, 2), Piece: &somePiece}.Append(nil), parse(ParseRecords)},
		{"put answer 0", PutAnswer{}.Append(nil), parse(ParsePutAnswer)},
		{"put answer 6", PutAnswer{Status: PutInvalid + 1}.Append(nil), parse(ParsePutAnswer)},
	} {
		if _, err := c.p(c.body); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, want ErrMalformed", c.name, err)
		}
	}
	if v, err := ParseVersions(append(versions.Append(nil), 1, 2)); err != nil || v != versions {
		t.Errorf("versions in a longer tail: %+v, %v", v, err)
	}
	if _, err := ParseVersions(versions.Append(nil)[1:]); !errors.Is(err, ErrMalformed) {
		t.Errorf("23 bytes of versions: %v", err)
	}
}

// TestLongestStoreMessagesFit holds the bounds against the longest payload.
func TestLongestStoreMessagesFit(t *testing.T) {
	one := Piece{Data: make([]byte, MaxPieceData)}
	two := one
	two.Proof = make([][32]byte, 1)
	for _, m := range []Message{
		Piece{Proof: make([][32]byte, maxProof), Data: make([]byte, MaxPieceData)},
		Gossip{Objects: make([]Object, MaxObjects)},
		Records{Replicas: make([]Replica, MaxReplicas), Records: make([]Stored, 1), Piece: &one},
		Records{Replicas: make([]Replica, MaxReplicas), Records: make([]Stored, MaxStored)},
		Put{Piece: &two},
	} {
		if n := len(m.Append(nil)); n > MaxPayload {
			t.Errorf("%s of %d bytes, at most %d", m.Type(), n, MaxPayload)
		}
	}
}

// FuzzParseStore gives every Parse the same bytes: what it takes is appended as
// the same bytes again.
func FuzzParseStore(f *testing.F) {
	for _, v := range storeVectors {
		f.Add(v.m.Append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, v := range storeVectors {
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
		}
	})
}
