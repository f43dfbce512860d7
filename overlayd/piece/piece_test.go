package piece

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

func object(size int) []byte {
	b := make([]byte, size)
	r := rand.New(rand.NewPCG(uint64(size), 1))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// TestTree compares with the definition of RFC 9162 §2.1.1, written another
// way: level by level, an odd last node carried up.
func TestTree(t *testing.T) {
	for _, size := range []int{1, 767, 768, 769, 2304, 5 * 768, 20_000, MaxObject} {
		b := object(size)
		var level [][32]byte
		for rest := b; len(rest) > 0; rest = rest[min(Size, len(rest)):] {
			level = append(level, sha256.Sum256(append([]byte{0}, rest[:min(Size, len(rest))]...)))
		}
		for len(level) > 1 {
			var up [][32]byte
			for i := 0; i < len(level); i += 2 {
				if i+1 == len(level) {
					up = append(up, level[i])
					continue
				}
				up = append(up, sha256.Sum256(slices.Concat([]byte{1}, level[i][:], level[i+1][:])))
			}
			level = up
		}
		want := sha256.Sum256(append([]byte{2, 0, byte(size >> 16), byte(size >> 8), byte(size)}, level[0][:]...))
		if got := New(b).ID(); got != (ID{want, size}) {
			t.Errorf("%d bytes: root %x, want %x", size, got.Root, want)
		}
	}
}

func TestPiecesInAnyOrder(t *testing.T) {
	for _, size := range []int{1, 768, 769, 3000, 16 << 10, MaxObject - 1, MaxObject} {
		o := New(object(size))
		a, err := NewAssembly(o.ID())
		if err != nil {
			t.Fatal(err)
		}
		order := rand.New(rand.NewPCG(1, 2)).Perm(Count(size))
		for k, i := range order {
			p := o.Cut(i)
			body := p.Append(nil)
			if len(body) > wire.MaxPayload {
				t.Fatalf("piece of %d bytes", len(body))
			}
			parsed, err := wire.ParsePiece(body)
			if err != nil {
				t.Fatal(err)
			}
			if a.Bytes() != nil {
				t.Fatal("whole too early")
			}
			if added, err := a.Add(parsed); !added || err != nil {
				t.Fatalf("size %d piece %d: %v, %v", size, i, added, err)
			}
			if added, err := a.Add(parsed); added || err != nil {
				t.Fatalf("twice: %v, %v", added, err)
			}
			if k+1 < len(order) {
				if f := a.Missing(); f.Mask == 0 || slices.Contains(order[:k+1], int(f.First)) {
					t.Fatalf("missing %+v after %v", f, order[:k+1])
				}
			}
		}
		if !bytes.Equal(a.Bytes(), o.Bytes()) {
			t.Errorf("%d bytes came out otherwise", size)
		}
	}
}

// TestFalsePieces changes every field of good pieces.
func TestFalsePieces(t *testing.T) {
	for _, size := range []int{5, 769, 2304, 10_000} {
		o := New(object(size))
		for i := range Count(size) {
			changes := map[string]func(*wire.Piece){
				"root":         func(p *wire.Piece) { p.Root[0] ^= 1 },
				"data":         func(p *wire.Piece) { p.Data = slices.Clone(p.Data); p.Data[0] ^= 1 },
				"data short":   func(p *wire.Piece) { p.Data = p.Data[1:] },
				"size":         func(p *wire.Piece) { p.Size++ },
				"size zero":    func(p *wire.Piece) { p.Size = 0 },
				"size huge":    func(p *wire.Piece) { p.Size = 1 << 31 },
				"index":        func(p *wire.Piece) { p.Index++ },
				"index huge":   func(p *wire.Piece) { p.Index = 1 << 15 },
				"proof longer": func(p *wire.Piece) { p.Proof = append(slices.Clone(p.Proof), [32]byte{}) },
			}
			if Count(size) > 1 {
				changes["proof"] = func(p *wire.Piece) { p.Proof = slices.Clone(p.Proof); p.Proof[0][3] ^= 1 }
				changes["proof shorter"] = func(p *wire.Piece) { p.Proof = p.Proof[1:] }
			}
			if err := Check(o.Cut(i)); err != nil {
				t.Fatal(err)
			}
			for what, change := range changes {
				p := o.Cut(i)
				change(&p)
				if err := Check(p); !errors.Is(err, ErrProof) && !errors.Is(err, ErrSize) {
					t.Errorf("size %d piece %d, %s changed: %v", size, i, what, err)
				}
			}
		}
	}
}

func TestServe(t *testing.T) {
	o := New(object(3000)) // 4 pieces
	f := wire.Fetch{Root: o.ID().Root, Size: 3000, First: 1, Mask: 0b1010_0101}
	if got := o.Serve(f); len(got) != 2 || got[0].Index != 1 || got[1].Index != 3 {
		t.Errorf("served %d pieces", len(got))
	}
	f.Size = 3001
	if got := o.Serve(f); got != nil {
		t.Error("served an object of another size")
	}
}

var start = time.Unix(1_800_000_000, 0)

func id(n byte) nodeid.ID { return nodeid.ID{15: n} }

// play runs a Fetcher against sources: each answers a request after 50 ms with
// what serve returns. It returns when the object came, or the zero time.
func play(f *Fetcher, serve func(from nodeid.ID, r wire.Fetch) []wire.Piece) (took time.Duration, whole []byte) {
	type answer struct {
		at   time.Time
		from nodeid.ID
		p    wire.Piece
	}
	var queue []answer
	for now := start; now.Before(start.Add(20 * time.Second)); now = now.Add(10 * time.Millisecond) {
		for len(queue) > 0 && !queue[0].at.After(now) {
			a := queue[0]
			queue = queue[1:]
			if outcome, b := f.Add(now, a.from, a.p); outcome == Whole {
				return now.Sub(start), b
			}
		}
		if next := f.Next(); next.IsZero() || next.After(now) {
			continue
		}
		asks, _ := f.Due(now)
		for _, ask := range asks {
			for _, p := range serve(ask.To, ask.Fetch) {
				queue = append(queue, answer{now.Add(50 * time.Millisecond), ask.To, p})
			}
		}
		if f.Len() == 0 {
			break
		}
	}
	return 0, nil
}

func TestFetcherFindsTheHonestSource(t *testing.T) {
	o := New(object(MaxObject))
	honest := id(15)
	for name, evil := range map[string]func(r wire.Fetch) []wire.Piece{
		"silent": func(wire.Fetch) []wire.Piece { return nil },
		"drips":  func(r wire.Fetch) []wire.Piece { return o.Serve(r)[:1] },
		"false": func(r wire.Fetch) []wire.Piece {
			p := o.Cut(int(r.First))
			p.Data = make([]byte, len(p.Data))
			return []wire.Piece{p}
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := NewFetcher(Limits{Objects: 4, PerSource: 2, Time: 8 * time.Second})
			for n := range byte(16) {
				if err := f.Want(start, o.ID(), id(n)); err != nil {
					t.Fatal(err)
				}
			}
			took, whole := play(f, func(from nodeid.ID, r wire.Fetch) []wire.Piece {
				if from == honest {
					return o.Serve(r)
				}
				return evil(r)
			})
			if !bytes.Equal(whole, o.Bytes()) || took > 4*time.Second {
				t.Errorf("had after %v: %v", took, whole != nil)
			}
			t.Logf("64 KiB from 1 of 16 sources, the others %s: %v", name, took)
		})
	}
}

func TestFetcherGivesUp(t *testing.T) {
	o := New(object(5000))
	f := NewFetcher(Limits{Objects: 2, PerSource: 1, Time: 8 * time.Second})
	if err := f.Want(start, o.ID(), id(1)); err != nil {
		t.Fatal(err)
	}
	if err := f.Want(start, New(object(1)).ID(), id(1)); err != ErrBusy {
		t.Errorf("a second object of one source: %v", err)
	}
	if err := f.Want(start, New(object(2)).ID(), id(2)); err != nil {
		t.Errorf("an object of another source: %v", err)
	}
	if err := f.Want(start, New(object(3)).ID(), id(3)); err != ErrBusy {
		t.Errorf("a third object: %v", err)
	}
	for _, size := range []int{0, -1, MaxObject + 1} {
		if err := f.Want(start, ID{Size: size}, id(4)); !errors.Is(err, ErrSize) {
			t.Errorf("object of %d bytes: %v", size, err)
		}
	}
	lost := 0
	for now := start; f.Len() > 0 && now.Before(start.Add(time.Minute)); now = now.Add(100 * time.Millisecond) {
		_, gone := f.Due(now)
		lost += len(gone)
	}
	if lost != 2 || f.Len() != 0 || !f.Next().IsZero() {
		t.Errorf("lost %d, still %d", lost, f.Len())
	}
}

// TestFetcherTakesUp changes the source in the middle: nothing that came is
// asked for again.
func TestFetcherTakesUp(t *testing.T) {
	o := New(object(40 * Size))
	f := NewFetcher(Limits{Objects: 1, PerSource: 1, Time: 8 * time.Second})
	_ = f.Want(start, o.ID(), id(1))
	_ = f.Want(start, o.ID(), id(2))
	asked := map[uint16]int{}
	first := 0
	_, whole := play(f, func(from nodeid.ID, r wire.Fetch) []wire.Piece {
		pieces := o.Serve(r)
		if from == id(1) {
			if first++; first > 1 {
				f.Gone(start.Add(time.Second), id(1))
				return nil
			}
		}
		for _, p := range pieces {
			asked[p.Index]++
		}
		return pieces
	})
	if !bytes.Equal(whole, o.Bytes()) {
		t.Fatal("not fetched")
	}
	for i, n := range asked {
		if n != 1 {
			t.Errorf("piece %d was sent %d times", i, n)
		}
	}
}

// FuzzFetcher feeds requests and pieces, true and false, and looks at bounds.
func FuzzFetcher(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10})
	objects := []*Object{New(object(100)), New(object(5000)), New(object(20_000))}
	f.Fuzz(func(t *testing.T, script []byte) {
		limits := Limits{Objects: 4, PerSource: 2, Time: 3 * time.Second}
		fetcher := NewFetcher(limits)
		now := start
		for i := 0; i+2 < len(script); i += 3 {
			o, who, arg := objects[int(script[i]>>4)%3], id(script[i+1]%20), script[i+2]
			switch script[i] % 6 {
			case 0:
				_ = fetcher.Want(now, o.ID(), who)
			case 1:
				_ = fetcher.Want(now, ID{Root: [32]byte{arg}, Size: int(arg) * 700}, who)
			case 2:
				if outcome, b := fetcher.Add(now, who, o.Cut(int(arg)%Count(len(o.Bytes())))); outcome == Whole && !bytes.Equal(b, o.Bytes()) {
					t.Fatal("another object came out")
				}
			case 3:
				p := o.Cut(0)
				p.Index = uint16(arg)
				fetcher.Add(now, who, p)
			case 4:
				fetcher.Gone(now, who)
			case 5:
				now = now.Add(time.Duration(arg) * 10 * time.Millisecond)
				asks, _ := fetcher.Due(now)
				if len(asks) > limits.Objects*maxSources {
					t.Fatalf("%d requests at once", len(asks))
				}
				if next := fetcher.Next(); !next.IsZero() && !next.After(now) {
					t.Fatal("due again at once")
				}
			}
			if fetcher.Len() > limits.Objects || fetcher.Bytes() > limits.Objects*(MaxObject+Size) {
				t.Fatalf("%d objects, %d bytes", fetcher.Len(), fetcher.Bytes())
			}
		}
	})
}
