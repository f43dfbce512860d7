package lease_test

import (
	"testing"
	"time"

	"gridappliance/overlayd/lease"
	"gridappliance/overlayd/wire"
)

// until runs the world up to a time.
func (w *world) until(t time.Duration) {
	for len(w.queue) > 0 && w.queue[0].at <= t {
		e := w.queue.pop()
		w.now = e.at
		e.do()
	}
	w.now = t
}

// usable returns what each holder may use now.
func (w *world) usable() map[string]wire.LeaseKey {
	m := map[string]wire.LeaseKey{}
	for _, h := range w.holders() {
		if state, l := h.holder.Lease(1); h.up && state == lease.Holding && l.MaySend(h.clock(w.now)) {
			m[h.name] = l.Key
		}
	}
	return m
}

// TestTwoDaysWithoutWitness: one master of one, and one of two, is off for 48
// hours. Whoever had an address keeps it and may send all the time; a machine
// that starts again has its old address within seconds.
func TestTwoDaysWithoutWitness(t *testing.T) {
	for _, n := range []int{1, 2} {
		w := newWorld(uint64(n), variant{witnesses: n, days: true})
		w.until(time.Minute)
		before := w.usable()
		if len(before) != len(w.holders()) {
			t.Fatalf("%d witnesses: %d of %d have an address after a minute", n, len(before), len(w.holders()))
		}
		w.hosts[0].crash(true, 48*time.Hour)
		for hour := range 47 {
			w.until(time.Minute + time.Duration(hour+1)*time.Hour)
			if hour%10 == 5 {
				h := w.holders()[hour/10%len(before)]
				h.crash(true, time.Minute)
				w.until(w.now + time.Minute + 5*time.Second)
			}
			after := w.usable()
			for name, key := range before {
				if after[name] != key {
					t.Fatalf("%d witnesses: after %d hours %s has %v, it had %v", n, hour, name, after[name], key)
				}
			}
		}
		renewed := 0
		w.until(52 * time.Hour)
		for _, h := range w.holders() {
			if _, l := h.holder.Lease(1); l.MaySend(h.clock(w.now + 6*24*time.Hour)) {
				renewed++
			}
		}
		if renewed != len(before) || len(w.violations) > 0 {
			t.Errorf("%d witnesses: %d of %d renewed after the outage, %v", n, renewed, len(before), w.violations)
		}
		t.Logf("%d witnesses: %d pairs of holders kept talking for 47 h, 5 restarts with the old address", n, len(before)*(len(before)-1)/2)
	}
}

// TestNewGrid: all witnesses start without a file. Addresses come after the
// minute in which live nodes could have shown theirs, and it is said.
func TestNewGrid(t *testing.T) {
	for _, n := range []int{1, 2, 3} {
		w := newWorld(7, variant{witnesses: n, days: true})
		for _, h := range w.hosts[:n] {
			h.crash(false, time.Second)
		}
		w.until(55 * time.Second)
		if got := len(w.usable()); got > 0 {
			t.Errorf("%d new witnesses: %d addresses within 55 s", n, got)
		}
		w.until(2 * time.Minute)
		if got := len(w.usable()); got != len(w.holders()) {
			t.Errorf("%d new witnesses: %d of %d addresses after 2 min", n, got, len(w.holders()))
		}
		if w.alarms[lease.AlarmAlone]+w.alarms[lease.AlarmNoMemory] < lease.Majority(n) {
			t.Errorf("%d new witnesses: alarms %v", n, w.alarms)
		}
	}
}

// TestAloneAvoidsWhatIsShown: the only witness loses its disk while its holders
// live; a new node gets none of their addresses.
func TestAloneAvoidsWhatIsShown(t *testing.T) {
	w := newWorld(3, variant{witnesses: 1, days: true})
	w.until(time.Minute)
	before := w.usable()
	w.hosts[0].crash(false, 30*time.Minute)
	w.until(3 * time.Hour)
	after := w.usable()
	for name, key := range before {
		if after[name] != key {
			t.Errorf("%s has %v, it had %v", name, after[name], key)
		}
	}
	if w.alarms[lease.AlarmAlone] != 1 || len(w.violations) > 0 {
		t.Errorf("alarms %v, %v", w.alarms, w.violations)
	}
}

// TestForce: the old majority is gone for ever; after the root's time the new
// roster gives addresses alone, and says so.
func TestForce(t *testing.T) {
	w := newWorld(5, variant{witnesses: 3})
	w.until(30 * time.Second)
	for _, h := range w.hosts[:2] {
		h.crash(true, 1000*time.Hour)
	}
	next := lease.Roster{Epoch: 2, Previous: w.roster.Witnesses, ForceAfter: epoch.Add(200 * time.Second)}
	for _, h := range w.hosts[2:5] {
		next.Witnesses = append(next.Witnesses, h.id)
	}
	w.roster = next
	for _, h := range w.hosts {
		h.take(next)
	}
	w.until(190 * time.Second)
	if got := len(w.usable()); got > 0 {
		t.Errorf("%d leases before the force, though no majority renews", got)
	}
	w.until(300 * time.Second)
	if got := len(w.usable()); got == 0 || len(w.violations) > 0 {
		t.Errorf("%d leases after the force, %v", got, w.violations)
	}
	if w.alarms[lease.AlarmForced] == 0 {
		t.Error("no alarm says that the old roster was left behind")
	}
}

// TestQuota: two nodes of one user have at most n * quota / majority keys.
func TestQuota(t *testing.T) {
	w := newWorld(9, variant{witnesses: 3, days: true})
	w.until(10 * time.Second)
	h := w.holders()[0]
	for i := range 20 {
		h.handle(lease.Want{Claim: lease.ClaimID(100 + i), Namespace: "net", Name: string(rune('a'+i)) + "-host"})
	}
	w.until(5 * time.Minute)
	got := 0
	for i := range 120 {
		if state, _ := h.holder.Lease(lease.ClaimID(i)); state == lease.Holding {
			got++
		}
	}
	if got < 2 || got > 6 {
		t.Errorf("%d keys with a quota of 4 for two nodes", got)
	}
}
