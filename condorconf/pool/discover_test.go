package pool

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"gridappliance/floppy"
)

func TestDiscover(t *testing.T) {
	const one, two, three = "C250000002.ipop", "C250000003.ipop", "C250000004.ipop"
	offer := func(rtt time.Duration, serves string, pool ...string) Offer {
		o := Offer{Master: pool[0], Pool: pool, RTT: rtt}
		if serves != "" {
			o.Serves = []string{serves}
		}
		return o
	}
	const ms = time.Millisecond
	for name, c := range map[string]struct {
		offers  []Offer
		current []string
		want    []string
		flock   []string
	}{
		"nobody has spoken":         {nil, nil, []string{one, two, three}, nil},
		"nobody speaks any more":    {nil, []string{two}, []string{two}, []string{one, three}},
		"the roster is another now": {nil, []string{"C250000009.ipop"}, []string{one, two, three}, nil},
		"one pool of all, one of it lives": {[]Offer{offer(ms, "", two, one, three)}, nil,
			[]string{one, two, three}, nil},
		"own group's before the nearest": {[]Offer{offer(ms, "chemistry", one), offer(80*ms, "physics", two), offer(9*ms, "", three)}, nil,
			[]string{two}, []string{one, three}},
		"nearest":             {[]Offer{offer(30*ms, "", one), offer(9*ms, "", two), offer(0, "", three)}, nil, []string{two}, []string{one, three}},
		"first of the roster": {[]Offer{offer(0, "", three), offer(0, "", two)}, nil, []string{two}, []string{one, three}},
		"it stays where it is": {[]Offer{offer(30*ms, "", one), offer(9*ms, "", two)}, []string{one},
			[]string{one}, []string{two, three}},
		"its pool has died": {[]Offer{offer(9*ms, "", two), offer(30*ms, "", three)}, []string{one},
			[]string{two}, []string{one, three}},
		"its group's pool has come back": {[]Offer{offer(9*ms, "", two), offer(30*ms, "physics", one)}, []string{two},
			[]string{one}, []string{two, three}},
		"nearest member of a pool of two": {[]Offer{offer(30*ms, "", one, two), offer(5*ms, "", two, one), offer(9*ms, "", three)}, nil,
			[]string{one, two}, []string{three}},
		"who speaks for others is not heard": {[]Offer{{Master: one, Pool: []string{two}, RTT: ms}, offer(9*ms, "", three)}, nil,
			[]string{three}, []string{one, two}},
		"who is not of the roster is left out": {[]Offer{offer(ms, "", two, "C250000009.ipop")}, nil,
			[]string{two}, []string{one, three}},
	} {
		t.Run(name, func(t *testing.T) {
			in := variations()["client"]
			in.Roster, in.Offers, in.Current = []string{one, two, three}, c.offers, c.current
			m, problems := New(in)
			if err := problems.Err(); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, m.Masters); diff != "" {
				t.Errorf("pool (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(c.flock, m.Flock, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("flock (-want +got):\n%s", diff)
			}
			in.Masters = floppy.Choice{Names: []string{three}}
			if m, _ := New(in); !cmp.Equal(m.Masters, []string{three}) {
				t.Errorf("the floppy names %s, the pool is %v", three, m.Masters)
			}
		})
	}
}
