package scenario

import (
	"math"
	"time"

	"gridappliance/overlayd/core"
)

// Steady grows a ring, looks at it idle, then looks things up.
func Steady(cfg Config) *Report {
	r := begin("steady", cfg)
	r.grow()
	r.traffic(time.Minute)
	r.load(r.lookups(), 30*time.Second)
	return r.end()
}

// Churn replaces machines all the time: sessions are drawn from an exponential
// law of a median (shape 1) or from a Weibull law, in which the young die
// sooner (shape below 1).
func Churn(cfg Config, median time.Duration, shape float64, over time.Duration) *Report {
	r := begin("churn, median session "+median.String(), cfg)
	r.grow()
	for _, m := range r.World.Machines {
		r.mortal(m, median, shape, r.Now()+over)
	}
	// The first lifetimes pass before anything is asked.
	r.Run(r.Now() + over/4)
	r.World.Joins, r.World.Attaches = Durations{}, Durations{}
	r.Look(r.lookups(), over*3/4-5*time.Second)
	r.traffic(over * 3 / 4)
	return r.end()
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
func Massacre(cfg Config, share float64) *Report {
	r := begin("massacre", cfg)
	r.grow()
	for _, i := range r.chance.Perm(len(r.World.Machines))[:int(share*float64(len(r.World.Machines)))] {
		r.Kill(r.World.Machines[i])
	}
	r.mark("massacre")
	at := r.Now()
	r.Look(r.lookups()/2, 5*time.Second)
	r.Run(at + 10*time.Second)
	r.Note("first 5 s: success %.4f, round trip %v", r.World.Lookups.Success(), &r.World.Lookups.Took)
	r.Look(r.lookups()/2, 20*time.Second)
	r.recover(at, 5*time.Minute, time.Second)
	r.Run(max(r.Now(), at+30*time.Second))
	r.forget()
	r.load(r.lookups(), 30*time.Second)
	return r.end()
}

// Split cuts the internet in halves for a time, and heals it. Lookups are asked
// all the time; while it is cut, the right answer is that of the own half.
func Split(cfg Config, cut time.Duration) *Report {
	r := begin("split", cfg)
	r.grow()
	side := func(m *Machine) uint8 { return uint8(m.Host.Name & 1) }
	sides := make([]uint8, r.Hosts())
	r.running(func(m *Machine) { sides[m.Host.Name] = side(m) })
	r.Partition(sides)
	r.World.side = side
	r.mark("cut")
	at := r.Now()
	r.Look(r.lookups()/2, cut)
	r.Run(at + cut - 35*time.Second)
	for s := range uint8(2) {
		r.Note("side %d before the heal: successors right %.4f", s, r.consistentAmong(func(m *Machine) bool { return side(m) == s }))
	}
	r.Run(at + cut)
	r.Heal()
	r.World.side = nil
	r.mark("heal")
	at = r.Now()
	r.Look(r.lookups()/2, time.Minute)
	r.recover(at, 10*time.Minute, time.Second)
	r.Run(max(r.Now(), at+time.Minute+core.LookupTime))
	r.forget()
	r.load(r.lookups(), 30*time.Second)
	return r.end()
}

// Flash lets a tenth of the machines join within ten seconds.
func Flash(cfg Config) *Report {
	late := cfg.Machines / 10
	cfg.Machines -= late
	r := begin("flash", cfg)
	r.grow()
	r.World.Joins, r.World.Attaches = Durations{}, Durations{}
	r.mark("flash")
	at := r.Now()
	for range late {
		m := r.machine(false)
		r.World.Machines = append(r.World.Machines, m)
		r.After(time.Duration(r.chance.Int64N(int64(10*time.Second))), func() { r.Boot(m) })
	}
	r.Look(r.lookups()/2, 10*time.Second)
	r.Run(at + 10*time.Second)
	r.recover(at+10*time.Second, 5*time.Minute, time.Second)
	r.load(r.lookups()/2, 30*time.Second)
	return r.end()
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
	r.recover(r.Now(), 5*time.Minute, time.Second)
	if r.Recovered == math.MaxInt64 {
		r.Note("after growing: %d members of %d, successors right %.4f", len(r.members), r.World.Running(), r.World.Consistent())
	}
	r.Recovered = 0
	r.Run(r.Now() + 30*time.Second)
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
