package piece

import (
	"errors"
	"slices"
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

// How a Fetcher asks. Implementation: tunable.
const (
	patience   = 500 * time.Millisecond // for all pieces of one request
	maxSources = 16                     // peers remembered for one object
	maxStalls  = 3                      // requests a source may leave unanswered
)

// Outcome is what Fetcher.Add made of a piece.
type Outcome int

// The outcomes.
const (
	Unasked Outcome = iota // of an object, or by a peer, that nobody asked
	Kept                   // new, and the object still has a hole
	Twice                  // proven, and there before
	False                  // not part of the object: the sender lies
	Whole                  // the object is complete and leaves the Fetcher
)

// Ask is a request to be sent.
type Ask struct {
	To    nodeid.ID
	Fetch wire.Fetch
}

// Lost is an object that could not be had, and who was asked.
type Lost struct {
	ID      ID
	Sources []nodeid.ID
}

// Limits bound a Fetcher.
type Limits struct {
	Objects   int           // at one time
	PerSource int           // of them that one peer was the first to offer
	Time      time.Duration // for one object, whatever arrives
}

// Fetcher gets objects from peers that offered them. It asks one source for up
// to 16 pieces; each time not all come within 500 ms it doubles the number of
// sources it asks, so that with 15 sources that say nothing or drip, the
// sixteenth is asked within 2 s:
//
//	asked 1 ──500 ms──> 2 ──500 ms──> 4 ──500 ms──> 8 ──> 16
//	  │ all pieces of the request came: ask the sender for the next
//	  └─ whole: done    no source left, or Limits.Time over: lost
//
// A source that left three requests unanswered, or sent a false piece, is not
// asked for that object again.
type Fetcher struct {
	limits  Limits
	objects []*fetching // in the order they began
}

type fetching struct {
	id       ID
	assembly *Assembly
	first    nodeid.ID // who offered it first, for PerSource
	sources  []source
	turn     int         // of the next source to ask
	width    int         // sources asked at a time
	request  wire.Fetch  // what was asked last
	asked    []nodeid.ID // and of whom; empty when that was answered
	again    time.Time   // when to ask, or ask others
	end      time.Time
}

type source struct {
	id     nodeid.ID
	stalls int
}

// NewFetcher returns a Fetcher that fetches nothing.
func NewFetcher(l Limits) *Fetcher { return &Fetcher{limits: l} }

// ErrBusy is returned by Want when a limit is reached.
var ErrBusy = errors.New("too many objects are being fetched")

// Want begins to fetch an object, or adds a source for it. ErrSize and ErrBusy
// mean that it does not.
func (f *Fetcher) Want(now time.Time, id ID, from nodeid.ID) error {
	if o := f.find(id); o != nil {
		known := slices.ContainsFunc(o.sources, func(s source) bool { return s.id == from })
		if !known && len(o.sources) < maxSources {
			o.sources = append(o.sources, source{id: from})
		}
		return nil
	}
	assembly, err := NewAssembly(id)
	if err != nil {
		return err
	}
	mine := 0
	for _, o := range f.objects {
		if o.first == from {
			mine++
		}
	}
	if mine >= f.limits.PerSource || len(f.objects) >= f.limits.Objects {
		return ErrBusy
	}
	f.objects = append(f.objects, &fetching{
		id: id, assembly: assembly, first: from, sources: []source{{id: from}}, width: 1,
		again: now, end: now.Add(f.limits.Time),
	})
	return nil
}

// Fetching says whether the object is being fetched.
func (f *Fetcher) Fetching(id ID) bool { return f.find(id) != nil }

// Len returns how many objects are being fetched.
func (f *Fetcher) Len() int { return len(f.objects) }

// Bytes returns how much of them is held.
func (f *Fetcher) Bytes() int {
	n := 0
	for _, o := range f.objects {
		n += o.assembly.have * Size
	}
	return n
}

// Drop forgets an object.
func (f *Fetcher) Drop(id ID) {
	f.objects = slices.DeleteFunc(f.objects, func(o *fetching) bool { return o.id == id })
}

// Gone forgets a peer as a source. Objects it was the last source of are
// found lost by Due.
func (f *Fetcher) Gone(now time.Time, peer nodeid.ID) {
	for _, o := range f.objects {
		o.remove(now, peer)
	}
}

// remove forgets a source, and asks others at once when it alone was asked.
func (o *fetching) remove(now time.Time, peer nodeid.ID) {
	o.sources = slices.DeleteFunc(o.sources, func(s source) bool { return s.id == peer })
	if o.asked = slices.DeleteFunc(o.asked, func(id nodeid.ID) bool { return id == peer }); len(o.asked) == 0 {
		o.again = now
	}
}

// Add takes a piece from a peer. With Whole it returns the object, else nil.
func (f *Fetcher) Add(now time.Time, from nodeid.ID, p wire.Piece) (Outcome, []byte) {
	o := f.find(ID{p.Root, int(p.Size)})
	if o == nil {
		return Unasked, nil
	}
	i := slices.IndexFunc(o.sources, func(s source) bool { return s.id == from })
	if i < 0 {
		return Unasked, nil
	}
	added, err := o.assembly.Add(p)
	if err != nil {
		o.remove(now, from)
		return False, nil
	}
	if !added {
		return Twice, nil
	}
	if object := o.assembly.Bytes(); object != nil {
		f.Drop(o.id)
		return Whole, object
	}
	if o.answered() { // the next request goes to who answered this one
		o.sources[i].stalls = 0
		o.turn, o.width, o.asked, o.again = i, 1, o.asked[:0], now
	}
	return Kept, nil
}

// answered says whether every piece of the last request is there.
func (o *fetching) answered() bool {
	for i := range 16 {
		if o.request.Mask&(1<<i) != 0 && o.assembly.pieces[int(o.request.First)+i] == nil {
			return false
		}
	}
	return true
}

// Due returns the requests that are due now, and the objects given up.
func (f *Fetcher) Due(now time.Time) (asks []Ask, lost []Lost) {
	f.objects = slices.DeleteFunc(f.objects, func(o *fetching) bool {
		over := !now.Before(o.end) || len(o.sources) == 0
		if !over && now.Before(o.again) {
			return false
		}
		sources := o.ids()
		o.stalled()
		if over || len(o.sources) == 0 {
			lost = append(lost, Lost{o.id, sources})
			return true
		}
		o.request = o.assembly.Missing()
		for range min(o.width, len(o.sources)) {
			o.turn %= len(o.sources)
			to := o.sources[o.turn].id
			o.asked = append(o.asked, to)
			asks = append(asks, Ask{to, o.request})
			o.turn++
		}
		o.again = now.Add(patience)
		return false
	})
	return asks, lost
}

// stalled counts the last request, if it was not answered, against those that
// were asked, and widens the next.
func (o *fetching) stalled() {
	if len(o.asked) == 0 {
		return
	}
	for i := range o.sources {
		if slices.Contains(o.asked, o.sources[i].id) {
			o.sources[i].stalls++
		}
	}
	o.sources = slices.DeleteFunc(o.sources, func(s source) bool { return s.stalls >= maxStalls })
	o.asked, o.width = o.asked[:0], min(2*o.width, maxSources)
}

func (o *fetching) ids() []nodeid.ID {
	ids := make([]nodeid.ID, len(o.sources))
	for i, s := range o.sources {
		ids[i] = s.id
	}
	return ids
}

// Next returns when Due has something to do, zero when nothing is fetched.
func (f *Fetcher) Next() time.Time {
	var next time.Time
	for _, o := range f.objects {
		at := o.again
		if o.end.Before(at) {
			at = o.end
		}
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	return next
}

func (f *Fetcher) find(id ID) *fetching {
	for _, o := range f.objects {
		if o.id == id {
			return o
		}
	}
	return nil
}
