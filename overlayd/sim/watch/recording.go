// Package watch makes a page of a run: a ring that forms, is cut, heals, loses
// a third of its nodes and fills again, to play and scrub through in a browser.
//
//	scenario.World ──Recorder──► Recording ──JSON──► page.html ──► docs/simulation/watch.html
//
// The page is one file without any request: markup, style, script and the
// recording. Its script knows nothing but the recording; all that it counts it
// counts by playing events.
//
// Invariant: playing a recording gives the members, connections and answers
// that the World had; a test plays it.
//
// For tests only. Not safe for concurrent use.
//
// Limits on purpose: one run of a few hundred nodes, so that a page stays below
// 1 MB. A lookup is its asker, its key and who answered; the nodes between are
// not recorded.
package watch

import (
	"time"

	"gridappliance/overlayd/link"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/sim/scenario"
)

// Recording is what happened in a World. It is a scenario.Recorder, and its
// JSON is the page's data.
type Recording struct {
	Version int    `json:"version"` // 1
	Seed    uint64 `json:"seed"`
	// Length is how long the run lasts, in ms of its time, as all times here.
	Length int64 `json:"length"`
	// Nodes are all that ever ran, in the order of their start. A machine that
	// comes back is another node.
	Nodes []Node `json:"nodes"`
	Marks []Mark `json:"marks"`
	// Events is a row of numbers, each event after the other:
	//
	//	since, kind, node, ...     since: ms since the event before
	//	 0 started
	//	 1 on the ring
	//	 2 no longer on the ring
	//	 3 died, and with it all its connections
	//	 4 connected     peer, path: 1 over the ring, 2 relay, 3 direct
	//	                 (again when the path changes)
	//	 5 disconnected  peer
	//	 6 looked up     answering node or -1, key (of 10,000 on the ring),
	//	                 ms it took, 1 right or 0
	//
	// A connection counts while both ends have it.
	Events []int64 `json:"events"`

	world *scenario.World
	index map[nodeid.ID]int
	last  int64
	halfs map[[2]int]link.State // connections as the first end sees them
	shown map[[2]int]int64      // the path of those that both ends have
}

// Node is a node: a place on the ring as a share of it, and bits of what it is.
type Node struct {
	At    float64 `json:"at"`
	Flags int     `json:"flags"`
	dead  bool
}

// Bits of a Node's flags.
const (
	Founder = 1 << iota // a bootstrap node
	NATed               // behind a translator
	SideB               // in the second half when the network is cut
)

// Mark is what the scenario did.
type Mark struct {
	At   int64  `json:"at"`
	Kind string `json:"kind"` // of a Mark* constant
	Text string `json:"text"`
}

// Kinds of marks. The page draws the halves apart between MarkCut and MarkHeal.
const (
	MarkStep = "step"
	MarkCut  = "cut"
	MarkHeal = "heal"
)

// Kinds of events, as Recording.Events has them.
const (
	started = iota
	joined
	parted
	died
	connected
	disconnected
	looked
)

func newRecording(seed uint64) *Recording {
	return &Recording{Version: 1, Seed: seed, index: map[nodeid.ID]int{}, halfs: map[[2]int]link.State{}, shown: map[[2]int]int64{}}
}

func (r *Recording) event(at time.Duration, numbers ...int64) {
	ms := at.Milliseconds()
	r.Events = append(append(r.Events, ms-r.last), numbers...)
	r.last = ms
}

func (r *Recording) mark(kind, text string) {
	r.Marks = append(r.Marks, Mark{At: r.world.Now().Milliseconds(), Kind: kind, Text: text})
}

// half is the half a machine is in when the network is cut.
func half(m *scenario.Machine) uint8 { return uint8(m.Host.Name & 1) }

// Started implements scenario.Recorder.
func (r *Recording) Started(at time.Duration, id nodeid.ID, founder bool) {
	n := Node{At: float64(int64(id.Fraction()*1e6)) / 1e6}
	for _, ms := range [2][]*scenario.Machine{r.world.Bootstraps, r.world.Machines} {
		for _, m := range ms {
			if m.Node == nil || m.Node.ID() != id {
				continue
			}
			n.Flags |= int(half(m)) * SideB
			if m.NAT != nil {
				n.Flags |= NATed
			}
		}
	}
	if founder {
		n.Flags |= Founder
	}
	r.index[id] = len(r.Nodes)
	r.event(at, started, int64(len(r.Nodes)))
	r.Nodes = append(r.Nodes, n)
}

// Member implements scenario.Recorder.
func (r *Recording) Member(at time.Duration, id nodeid.ID, on bool) {
	n, kind := r.index[id], int64(parted)
	if on {
		kind = joined
	}
	if !r.Nodes[n].dead { // whom death has taken off the ring already
		r.event(at, kind, int64(n))
	}
}

// Died implements scenario.Recorder.
func (r *Recording) Died(at time.Duration, id nodeid.ID) {
	n := r.index[id]
	r.event(at, died, int64(n))
	r.Nodes[n].dead = true
	for pair := range r.halfs {
		if pair[0] == n {
			delete(r.halfs, pair)
		}
	}
	for pair := range r.shown {
		if pair[0] == n || pair[1] == n {
			delete(r.shown, pair)
		}
	}
}

// paths are link's states as the page knows them.
var paths = map[link.State]int64{link.Ring: 1, link.Relay2: 2, link.Punching: 2, link.Direct: 3}

// Connected implements scenario.Recorder.
func (r *Recording) Connected(at time.Duration, id, peer nodeid.ID, path link.State) {
	a, b := r.index[id], r.index[peer]
	r.halfs[[2]int{a, b}] = path
	back, both := r.halfs[[2]int{b, a}]
	if !both {
		return
	}
	pair := [2]int{min(a, b), max(a, b)}
	if p := min(paths[path], paths[back]); r.shown[pair] != p {
		r.shown[pair] = p
		r.event(at, connected, int64(pair[0]), int64(pair[1]), p)
	}
}

// Disconnected implements scenario.Recorder.
func (r *Recording) Disconnected(at time.Duration, id, peer nodeid.ID) {
	a, b := r.index[id], r.index[peer]
	delete(r.halfs, [2]int{a, b})
	pair := [2]int{min(a, b), max(a, b)}
	if _, ok := r.shown[pair]; ok {
		delete(r.shown, pair)
		r.event(at, disconnected, int64(pair[0]), int64(pair[1]))
	}
}

// Looked implements scenario.Recorder.
func (r *Recording) Looked(at time.Duration, l scenario.Lookup) {
	answer, right := int64(-1), int64(0)
	if i, ok := r.index[l.Node]; ok {
		answer = int64(i)
	}
	if l.Right {
		right = 1
	}
	r.event(at, looked, int64(r.index[l.From]), answer, int64(l.Key.Fraction()*10_000), l.Took.Milliseconds(), right)
}

// Marked implements scenario.Recorder. This package's run has marks of its own.
func (r *Recording) Marked(time.Duration, string) {}
