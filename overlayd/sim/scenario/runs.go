package scenario

import (
	"iter"
	"math"
	"time"

	"gridappliance/overlayd/core"
)

// Phase is something that happens to a World that has settled.
type Phase struct {
	Name   string
	happen func(*run)
}

// Run grows a World and lets the phases happen to it, one after the other; the
// World settles before each. It yields a report of each when it is over; a
// report counts from the end of the one before, the first from the beginning.
// Growing is the dearest part, so that phases which can do with one World share
// it: an earlier one is then part of a later one's past.
func Run(cfg Config, phases ...Phase) iter.Seq2[int, *Report] {
	return func(yield func(int, *Report) bool) {
		r := begin("", cfg)
		r.grow()
		for i, p := range phases {
			if i > 0 {
				r.settle()
				r.forget()
				r.World.Joins, r.World.Attaches = Durations{}, Durations{}
			}
			r.Report.Name = p.Name
			p.happen(r)
			if !yield(i, r.end()) {
				return
			}
		}
	}
}

// Quiet looks at the ring idle, then looks things up.
func Quiet() Phase {
	return Phase{"quiet", func(r *run) {
		r.traffic(time.Minute)
		r.load(r.lookups(), 30*time.Second)
	}}
}

// Churn replaces machines all the time: sessions are drawn from an exponential
// law of a median (shape 1) or from a Weibull law, in which the young die
// sooner (shape below 1).
func Churn(median time.Duration, shape float64, over time.Duration) Phase {
	return Phase{"churn, median session " + median.String(), func(r *run) {
		for _, m := range r.World.Machines {
			r.mortal(m, median, shape, r.Now()+over)
		}
		// The first lifetimes pass before anything is asked.
		r.Run(r.Now() + over/4)
		r.World.Joins, r.World.Attaches = Durations{}, Durations{}
		r.Look(r.lookups(), over*3/4-5*time.Second)
		r.traffic(over * 3 / 4)
	}}
}

// mortal lets a machine die when its session ends, and be another at once.
func (r *run) mortal(m *Machine, median time.Duration, shape float64, until time.Duration) {
	scale := float64(median) / math.Pow(math.Ln2, 1/shape)
	life := time.Duration(scale * math.Pow(r.chance.ExpFloat64(), 1/shape))
	if r.Now()+life >= until {
		return
	}
	r.After(life, func() {
		r.Kill(m)
		r.Boot(m)
		r.mortal(m, median, shape, until)
	})
}

// Massacre lets a share of all machines die at once. Lookups are asked in the
// first five seconds, before much is repaired, and again after 30 s.
func Massacre(share float64) Phase {
	return Phase{"massacre", func(r *run) {
		for _, i := range r.chance.Perm(len(r.World.Machines))[:int(share*float64(len(r.World.Machines)))] {
			r.Kill(r.World.Machines[i])
		}
		r.mark("massacre")
		at := r.Now()
		r.Look(r.lookups()/2, 5*time.Second)
		r.Run(at + 10*time.Second)
		l := &r.World.Lookups
		r.Note("first 5 s: %d asked, %d answered, %d right: success %.4f, round trip %v", l.Asked, l.Answered, l.Right, l.Success(), &l.Took)
		r.Look(r.lookups()/2, 20*time.Second)
		r.recover(at, 5*time.Minute, time.Second)
		r.Run(max(r.Now(), at+30*time.Second))
		r.forget()
		r.load(r.lookups(), 30*time.Second)
	}}
}

// Split cuts the internet in halves for a time, and heals it. Lookups are asked
// all the time; while it is cut, the right answer is that of the own half.
func Split(cut time.Duration) Phase {
	return Phase{"split", func(r *run) {
		side := func(m *Machine) uint8 { return uint8(m.Host.Name & 1) }
		r.Cut(side)
		r.mark("cut")
		at := r.Now()
		r.Look(r.lookups()/2, cut)
		r.Run(at + cut - 35*time.Second)
		for s := range uint8(2) {
			r.Note("side %d before the heal: successors right %.4f", s, r.consistentAmong(func(m *Machine) bool { return side(m) == s }))
		}
		r.Run(at + cut)
		r.Mend()
		r.mark("heal")
		at = r.Now()
		r.Look(r.lookups()/2, time.Minute)
		r.recover(at, 10*time.Minute, time.Second)
		r.Run(max(r.Now(), at+time.Minute+core.LookupTime))
		r.forget()
		r.load(r.lookups(), 30*time.Second)
	}}
}

// Flash lets a tenth as many machines as there are join within ten seconds.
func Flash() Phase {
	return Phase{"flash", func(r *run) {
		r.World.Joins, r.World.Attaches = Durations{}, Durations{}
		r.mark("flash")
		at := r.Now()
		for range len(r.World.Machines) / 10 {
			m := r.machine(false)
			r.World.Machines = append(r.World.Machines, m)
			r.After(time.Duration(r.chance.Int64N(int64(10*time.Second))), func() { r.Boot(m) })
		}
		r.Look(r.lookups()/2, 10*time.Second)
		r.Run(at + 10*time.Second)
		r.recover(at+10*time.Second, 5*time.Minute, time.Second)
		r.load(r.lookups()/2, 30*time.Second)
	}}
}

// grow starts the bootstrap nodes, then the machines at such a rate that the
// ring grows by a twentieth each five seconds once it is large, and waits until
// it has settled.
func (r *run) grow() {
	for i, m := range r.Bootstraps {
		r.After(time.Duration(i)*20*time.Millisecond, func() { r.Boot(m) })
	}
	at := r.Now() + time.Duration(len(r.Bootstraps))*20*time.Millisecond + 10*time.Second
	for i, m := range r.World.Machines {
		r.At(at, func() { r.Boot(m) })
		rate := max(10, float64(len(r.Bootstraps)+i)/100)
		at += time.Duration(float64(time.Second) / rate)
	}
	r.Run(at)
	r.mark("grown")
	r.watchInvariants()
	r.settle()
	r.Run(r.Now() + 30*time.Second)
}

// settle waits until all are members and every successor is right, a minute at
// most: a large ring need not be perfect to be looked at.
func (r *run) settle() {
	if r.recover(r.Now(), time.Minute, time.Second); r.Recovered == math.MaxInt64 {
		r.Note("not settled before this: %d members of %d, successors right %.4f", len(r.members), r.World.Running(), r.World.Consistent())
	}
	r.Recovered = 0
}

// lookups is how many lookups make a figure.
func (r *run) lookups() int { return max(500, min(20_000, 2*len(r.World.Machines))) }

func (r *run) mark(what string) { r.record(func(o Recorder) { o.Marked(r.Now(), what) }) }

// consistentAmong is Consistent within a part of the members.
func (w *World) consistentAmong(in func(*Machine) bool) float64 {
	all := w.members
	var part []*Machine
	for _, m := range all {
		if in(m) {
			part = append(part, m)
		}
	}
	w.members = part
	share := w.Consistent()
	w.members = all
	return share
}
