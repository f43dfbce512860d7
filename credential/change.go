package credential

import (
	"fmt"
	"slices"
	"time"

	"gridappliance/internal/diag"
)

// maxStopped bounds Change.Stopped, in bytes: one message of the overlay.
const maxStopped = 1200

// Change says how a roster follows the one before it (TRUST "Leases"): leases
// need both until the old one has stopped, and no epoch can be skipped.
type Change struct {
	Witnesses  []Witness  `json:"witnesses"`   // of the epoch before
	Stopped    []byte     `json:"stopped"`     // proof that the epoch before that one has stopped; package lease reads it; null for epoch 2
	Forced     bool       `json:"forced"`      // instead of it: that epoch was left behind by force
	ForceAfter *time.Time `json:"force_after"` // when the epoch before no longer counts though it has not stopped; null: never
}

// ChangeWitnesses makes the next epoch's roster of witnesses. Stopped is the
// proof that the previous change is complete, nil when there was none or when
// forced. It is for Grid.Amend, which signs.
func (d *Descriptor) ChangeWitnesses(list []Witness, stopped []byte, forced bool, forceAfter *time.Time) {
	d.Change = &Change{Witnesses: d.Witnesses, Stopped: stopped, Forced: forced, ForceAfter: forceAfter}
	d.Witnesses = slices.Clone(list)
	d.Epoch++
}

// validateChange returns what is wrong with the descriptor's Change.
func (d *Descriptor) validateChange() diag.List {
	var l diag.List
	add := func(format string, values ...any) {
		l.Add(diag.Problem{Path: "change", Message: fmt.Sprintf(format, values...)})
	}
	c := d.Change
	if (d.Epoch > 1) != (c != nil) {
		add("epoch %d: epoch 1 has no change, every other has one", d.Epoch)
	}
	if c == nil {
		return l
	}
	if len(c.Witnesses) == 0 || len(c.Witnesses) > maxWitnesses {
		add("%d witnesses before, 1 to %d allowed", len(c.Witnesses), maxWitnesses)
	}
	seen := map[NodeID]bool{}
	for _, w := range c.Witnesses {
		if err := CheckUser(w.Name); err != nil {
			add("%v", err)
		}
		if seen[w.ID] {
			add("%s is there twice", w.Name)
		}
		seen[w.ID] = true
	}
	first := d.Epoch == 2
	switch proven := len(c.Stopped) > 0; {
	case c.Stopped != nil && !proven || len(c.Stopped) > maxStopped:
		add("a proof of %d bytes, 1 to %d allowed", len(c.Stopped), maxStopped)
	case first && (proven || c.Forced):
		add("nothing comes before the first epoch that could have stopped")
	case !first && proven == c.Forced:
		add("epoch %d follows by a proof that epoch %d has stopped, or by force; exactly one of them", d.Epoch, d.Epoch-2)
	}
	if t := c.ForceAfter; t != nil && *t != t.UTC().Truncate(time.Second) {
		add("force_after %v is not in UTC and whole seconds", *t)
	}
	return l
}
