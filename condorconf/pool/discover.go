package pool

import (
	"cmp"
	"slices"
	"time"
)

// Offer is what a master says of itself in the grid's store: that its
// collector answers, which masters form a pool with it, and for whom above all.
type Offer struct {
	Master string   `json:"master"`           // host name of who says it
	Pool   []string `json:"pool"`             // host names of all masters of its pool, its own among them
	Serves []string `json:"serves,omitempty"` // groups that are to take this pool before others

	RTT time.Duration `json:"-"` // to the master; 0: not known
}

// discover returns the masters of the pool that a worker or client is to be
// in: one that serves its group, then the one it is in, then the nearest, then
// the first of the roster. A pool lives as long as one of its masters does.
//
// The pool it is in comes before a nearer one, because round trips differ from
// one look to the next. Where nobody says that he lives, it stays where it is,
// or takes all masters of the roster for one pool.
func discover(in Input) []string {
	type candidate struct {
		masters []string
		serves  bool
		current bool
		rtt     time.Duration
	}
	var pools []candidate
	for _, o := range in.Offers {
		masters := slices.DeleteFunc(slices.Clone(in.Roster), func(name string) bool { return !slices.Contains(o.Pool, name) })
		if !slices.Contains(masters, o.Master) {
			continue // it speaks for others
		}
		c := candidate{masters, slices.Contains(o.Serves, in.Group), slices.Equal(masters, in.Current), o.RTT}
		if c.rtt == 0 {
			c.rtt = time.Hour // farther than any that was measured
		}
		i := slices.IndexFunc(pools, func(p candidate) bool { return slices.Equal(p.masters, masters) })
		if i < 0 {
			pools = append(pools, c)
			continue
		}
		pools[i].serves = pools[i].serves || c.serves
		pools[i].rtt = min(pools[i].rtt, c.rtt)
	}
	if len(pools) == 0 {
		if stay := slices.DeleteFunc(slices.Clone(in.Current), func(name string) bool { return !slices.Contains(in.Roster, name) }); len(stay) > 0 {
			return stay
		}
		return in.Roster
	}
	first := func(b bool) int {
		if b {
			return 0
		}
		return 1
	}
	return slices.MinFunc(pools, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(first(a.serves), first(b.serves)), cmp.Compare(first(a.current), first(b.current)),
			cmp.Compare(a.rtt, b.rtt), cmp.Compare(slices.Index(in.Roster, a.masters[0]), slices.Index(in.Roster, b.masters[0])))
	}).masters
}
