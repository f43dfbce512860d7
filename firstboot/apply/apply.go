// Package apply makes a root match a plan: only what differs is written, what
// an earlier plan made and this one does not name is removed, and the stamp is
// replaced last.
//
//	read stamp, pending ─> what differs? ── nothing ──────────────> marks
//	                            │
//	    remove mark · pending · identity · folders, files, links
//	    · removals · accounts · stamp · remove pending ───────────> marks
//
// Invariants, tested by dying before every single step (docs/decisions/0020):
// each file is the old one or the new one in full; the stamp is the old one
// until everything else is new; running again with either floppy gives exactly
// that floppy's tree; /run/grid/applied exists only while the stamp's plan
// holds in full, so that no service of a role sees anything between.
//
// On somebody's own machine Undo goes the way back (leave.go).
//
// Everything is written through a Tree. Apply is for one process at a time
// (the command holds a lock).
package apply

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"gridappliance/firstboot/plan"
)

// Options is what goes into the stamp beside the plan, and how identities are
// made.
type Options struct {
	Instance Instance
	Newest   time.Time // newest signed object of the floppy
	Source   string
	// Identity makes a fresh identity for a machine that is new or a copy. Nil
	// leaves machine-id and host keys alone: they are those of an own machine.
	Identity func() (Identity, error)
	// Before is how an own machine is before its first floppy; nil otherwise.
	Before *Before
}

// Result is what Apply did.
type Result struct {
	Before *Stamp   // nil on a machine without one
	After  *Stamp   //
	Wrote  []string // paths written, in order
	Gone   []string // paths removed, in order
	// Fresh says that the machine got a new identity; Copied, that it had
	// another one before, on another machine.
	Fresh, Copied bool
}

// Changed says whether anything was written or removed.
func (r Result) Changed() bool { return r.Fresh || len(r.Wrote)+len(r.Gone) > 0 }

// Apply makes t match p. With a nil plan it only sees to the machine's
// identity, and leaves everything else as the stamp has it.
//
// After an error the tree is between the old plan and the new one, without
// AppliedMark; calling Apply again finishes, with this plan or with another.
func Apply(t *Tree, p *plan.Plan, o Options) (Result, error) {
	j := job{tree: t, options: o}
	var err error
	if j.before, err = ReadStamp(t); err != nil {
		return Result{}, err
	}
	if _, err := readJSON(t, pendingPath, &j.pending); err != nil {
		return Result{}, err
	}
	j.compare(p)
	if err := j.run(); err != nil {
		return j.result, err
	}
	j.result.Before, j.result.After = j.before, j.after
	return j.result, nil
}

// job is one Apply.
type job struct {
	tree    *Tree
	options Options
	before  *Stamp
	pending pending

	after   *Stamp
	planned bool         // there is a plan
	fresh   bool         // a new identity is needed
	temps   []string     // temporaries that an earlier, ended job left
	put     []plan.Entry // differing entries, parents first
	drop    []string     // paths to remove, children first
	files   []plan.Entry // account files that differ
	result  Result
}

// compare finds out what has to be done; it changes nothing.
func (j *job) compare(p *plan.Plan) {
	old := j.before
	if old == nil {
		old = &Stamp{}
	}
	j.fresh = j.before == nil || !old.Instance.Same(j.options.Instance)
	after := *old
	after.Version = stampVersion
	after.Instance = j.options.Instance
	// What was there first counts: an Apply that ended half way has changed it.
	after.Before = cmp.Or(old.Before, j.pending.Before, j.options.Before)
	if j.options.Newest.After(after.Newest) {
		after.Newest = j.options.Newest
	}
	j.after = &after
	if p == nil {
		j.pending = pending{} // stays as it is, for a later Apply with a plan
		return
	}
	j.planned = true
	after.Source, after.Floppy = j.options.Source, p.Floppy
	after.Role, after.Grid, after.Group, after.User, after.Hostname = p.Role, p.Grid, p.Group, p.User, p.Hostname
	after.Users, after.Units, after.Device = p.Users, p.Units, p.Device
	after.Entries = map[string]string{}
	for _, e := range p.Entries {
		after.Entries[e.Path] = e.Hash()
	}
	after.Made = j.parents(p, slices.Concat(old.Made, j.pending.Made))
	after.Plan = after.hash()

	ours := slices.Concat(slices.Collect(maps.Keys(old.Entries)), old.Made, j.pending.Entries, j.pending.Made)
	j.compareEntries(p, ours)
	j.compareAccounts(p.Users, old.Users)
}

// parents returns the folders on the way to the plan's entries that the image
// does not have: those missing, and those made by an earlier plan.
func (j *job) parents(p *plan.Plan, made []string) []string {
	planned := map[string]bool{}
	for _, e := range p.Entries {
		planned[e.Path] = true
	}
	need := map[string]bool{}
	look := func(dir string) {
		for ; dir != "."; dir = path.Dir(dir) {
			if planned[dir] {
				continue
			}
			if _, err := j.tree.root.Lstat(dir); errors.Is(err, fs.ErrNotExist) || slices.Contains(made, dir) {
				need[dir] = true
			}
		}
	}
	for _, e := range p.Entries {
		look(path.Dir(e.Path))
	}
	for _, f := range p.Folders {
		look(f.Path)
	}
	return slices.Sorted(maps.Keys(need))
}

// compareEntries fills put, drop and temps.
func (j *job) compareEntries(p *plan.Plan, ours []string) {
	want := map[string]bool{}
	entries := slices.Clone(p.Entries)
	for _, dir := range j.after.Made {
		e := plan.Entry{Path: dir, Kind: plan.KindDir, Mode: 0o755}
		for _, f := range p.Folders {
			if f.Path == dir {
				e.Mode = f.Mode
			}
		}
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b plan.Entry) int { return strings.Compare(a.Path, b.Path) })
	for _, e := range entries {
		want[e.Path] = true
		if !j.tree.holds(e) {
			j.put = append(j.put, e)
		}
	}
	slices.Sort(ours)
	for _, name := range slices.Backward(slices.Compact(ours)) {
		if _, err := j.tree.root.Lstat(name); !want[name] && err == nil {
			j.drop = append(j.drop, name)
		}
	}
	known := append(slices.Collect(maps.Keys(want)), ours...)
	known = append(known, StampPath, pendingPath)
	for _, a := range accountFiles {
		known = append(known, a.path)
	}
	slices.Sort(known)
	for _, name := range slices.Compact(known) {
		if _, err := j.tree.root.Lstat(tempOf(name)); err == nil {
			j.temps = append(j.temps, tempOf(name))
		}
	}
}

// compareAccounts fills files.
func (j *job) compareAccounts(users, old []plan.User) {
	ours := slices.Clone(j.pending.Users)
	for _, u := range old {
		ours = append(ours, u.Name)
	}
	for _, a := range accountFiles {
		text, err := j.tree.ReadFile(a.path)
		if err != nil && len(users) == 0 {
			continue // a tree without accounts
		}
		merged := j.after.Before.shape(a.path, a.merge(text, users, ours))
		if bytes.Equal(text, merged) {
			continue
		}
		mode, owner := j.tree.standing(a.path, a.mode) // shadow's group is shadow
		j.files = append(j.files, plan.Entry{Path: a.path, Kind: plan.KindFile, Mode: mode, UID: owner.uid, GID: owner.gid, Content: merged})
	}
}

// run does what compare found.
func (j *job) run() error {
	changes := j.fresh || len(j.temps)+len(j.put)+len(j.drop)+len(j.files) > 0
	unfinished := len(j.pending.Entries) > 0
	stamped := j.before != nil && bytes.Equal(encode(j.before), encode(j.after))
	if changes || unfinished || !stamped {
		if err := j.change(j.planned && (changes || unfinished)); err != nil {
			return err
		}
	}
	return j.mark()
}

// change goes from one stamp to the next.
func (j *job) change(journal bool) error {
	t := j.tree
	if err := j.unmark(); err != nil {
		return err
	}
	if journal {
		if err := t.ensureDir(path.Dir(pendingPath), 0o711); err != nil {
			return err
		}
		if err := t.writeFile(pendingPath, encode(j.intent()), 0o600, owner{}); err != nil {
			return err
		}
	}
	for _, name := range j.temps {
		if err := t.remove(name); err != nil {
			return err
		}
	}
	if j.fresh {
		if err := j.renew(); err != nil {
			return err
		}
	}
	for _, e := range slices.Concat(j.put, j.files) {
		if err := t.put(e); err != nil {
			return err
		}
		j.result.Wrote = append(j.result.Wrote, e.Path)
	}
	for _, name := range j.drop {
		if err := t.remove(name); err != nil {
			return err
		}
		j.result.Gone = append(j.result.Gone, name)
	}
	if err := t.writeFile(StampPath, encode(j.after), 0o600, owner{}); err != nil {
		return err
	}
	if journal {
		return t.remove(pendingPath)
	}
	return nil
}

// intent is everything that may be there, of any plan, until the next stamp.
func (j *job) intent() pending {
	p := pending{Entries: j.pending.Entries, Made: j.pending.Made, Users: j.pending.Users, Before: j.after.Before}
	p.Entries = append(p.Entries, slices.Collect(maps.Keys(j.after.Entries))...)
	p.Made = append(p.Made, j.after.Made...)
	for _, u := range j.after.Users {
		p.Users = append(p.Users, u.Name)
	}
	for _, list := range []*[]string{&p.Entries, &p.Made, &p.Users} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	return p
}

// unmark takes the marks away: from here on nothing of a role may start.
func (j *job) unmark() error {
	for _, name := range []string{AppliedMark, OverlayMark} {
		if _, err := j.tree.root.Lstat(name); err == nil {
			if err := j.tree.remove(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// mark sets the marks: the plan holds.
func (j *job) mark() error {
	if !j.planned || j.after.Floppy == "" {
		return nil
	}
	if err := j.tree.ensureDir(path.Dir(AppliedMark), 0o755); err != nil {
		return err
	}
	if j.after.Overlay() {
		if err := j.tree.touch(OverlayMark); err != nil {
			return err
		}
	}
	return j.tree.touch(AppliedMark)
}

// hash identifies the plan: everything but where and when.
func (s *Stamp) hash() string {
	plan := *s
	plan.Plan, plan.Source, plan.Newest, plan.Instance = "", "", time.Time{}, Instance{}
	sum := sha256.Sum256(encode(plan))
	return hex.EncodeToString(sum[:])
}

// put makes the tree hold e.
func (t *Tree) put(e plan.Entry) error {
	switch e.Kind {
	case plan.KindDir:
		return t.makeDir(e.Path, e.Mode, owner{e.UID, e.GID})
	case plan.KindLink:
		return t.writeLink(e.Path, e.Target)
	case plan.KindFile:
		return t.writeFile(e.Path, e.Content, e.Mode, owner{e.UID, e.GID})
	}
	return fmt.Errorf("put %s: unknown kind %q", e.Path, e.Kind)
}

// holds says whether e stands in the tree as it should be.
func (t *Tree) holds(e plan.Entry) bool {
	info, err := t.root.Lstat(e.Path)
	if err != nil {
		return false
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && t.own && (int(stat.Uid) != e.UID || int(stat.Gid) != e.GID) {
		return false
	}
	switch e.Kind {
	case plan.KindDir:
		return info.IsDir() && info.Mode()&(fs.ModePerm|fs.ModeSticky) == e.Mode
	case plan.KindLink:
		target, err := t.root.Readlink(e.Path)
		return err == nil && target == e.Target
	}
	if !info.Mode().IsRegular() || info.Mode().Perm() != e.Mode {
		return false
	}
	content, err := t.ReadFile(e.Path)
	return err == nil && bytes.Equal(content, e.Content)
}
