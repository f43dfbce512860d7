package credential

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestChangeOfTheRoster(t *testing.T) {
	w := newWorld(t)
	first := w.grid.Descriptor
	if bytes.Contains(first.signed.body, []byte("change")) {
		t.Error("epoch 1 names a change")
	}
	force := testTime.Add(time.Hour).UTC().Truncate(time.Second)
	if err := w.grid.Amend(func(d *Descriptor) { d.ChangeWitnesses(d.Witnesses[1:], nil, false, &force) }, testTime); err != nil {
		t.Fatal(err)
	}
	d, err := ParseDescriptor(w.grid.Descriptor.Text())
	if err != nil {
		t.Fatal(err)
	}
	if d.Epoch != 2 || len(d.Change.Witnesses) != len(first.Witnesses) || len(d.Witnesses) != len(first.Witnesses)-1 || !d.Change.ForceAfter.Equal(force) {
		t.Errorf("epoch %d, %d witnesses after %d, force after %v", d.Epoch, len(d.Witnesses), len(d.Change.Witnesses), d.Change.ForceAfter)
	}
	if err := w.grid.Amend(func(d *Descriptor) { d.ChangeWitnesses(d.Witnesses, []byte("proof"), false, nil) }, testTime); err != nil {
		t.Errorf("third epoch: %v", err)
	}
	half := testTime.Add(time.Millisecond)
	for name, c := range map[string]struct {
		change func(d *Descriptor)
		want   string
	}{
		"no change":        {func(d *Descriptor) { d.Epoch, d.Change = 4, nil }, "every other has one"},
		"change of 1":      {func(d *Descriptor) { d.Epoch = 1 }, "epoch 1 has no change"},
		"skipped":          {func(d *Descriptor) { d.ChangeWitnesses(d.Witnesses, nil, false, nil) }, "exactly one of them"},
		"proof and force":  {func(d *Descriptor) { d.ChangeWitnesses(d.Witnesses, []byte("proof"), true, nil) }, "exactly one of them"},
		"proof of nothing": {func(d *Descriptor) { d.Epoch = 1; d.ChangeWitnesses(d.Witnesses, []byte("proof"), false, nil) }, "nothing comes before"},
		"empty proof":      {func(d *Descriptor) { d.ChangeWitnesses(d.Witnesses, []byte{}, true, nil) }, "a proof of 0 bytes"},
		"long proof":       {func(d *Descriptor) { d.ChangeWitnesses(d.Witnesses, make([]byte, maxStopped+1), false, nil) }, "a proof of 1201 bytes"},
		"nobody before":    {func(d *Descriptor) { d.Change.Witnesses = nil }, "0 witnesses before"},
		"one twice":        {func(d *Descriptor) { d.Change.Witnesses = append(d.Change.Witnesses, d.Change.Witnesses[0]) }, "is there twice"},
		"a bad name":       {func(d *Descriptor) { d.Change.Witnesses[0].Name = "No" }, "No"},
		"half a second":    {func(d *Descriptor) { d.Change.ForceAfter = &half }, "whole seconds"},
	} {
		before := w.grid.Descriptor
		if err := w.grid.Amend(c.change, testTime); err == nil || !strings.Contains(err.Error(), c.want) || w.grid.Descriptor != before {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
