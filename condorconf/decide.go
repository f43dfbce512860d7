package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"gridappliance/condorconf/pool"
	"gridappliance/condorconf/tree"
	"gridappliance/credential"
	"gridappliance/floppy"
	"gridappliance/internal/diag"
	"gridappliance/overlayd/control"
)

// decision is what this machine should be, and what that changes.
type decision struct {
	root    *os.Root
	machine pool.Machine
	files   []tree.File
	changes []tree.Change
	waiting string    // why HTCondor cannot run
	renew   time.Time // half of the certificate's life; zero without one
}

// Close releases the root.
func (d *decision) Close() { d.root.Close() }

// ownMark is there on a machine that is somebody's own (the Debian package has
// it), and not on an appliance.
const ownMark = "usr/lib/grid/own-machine"

// decide reads everything that the options name and the tree as it is.
func (o options) decide(ctx context.Context, now time.Time) (*decision, error) {
	image, err := os.ReadFile(o.floppy)
	if err != nil {
		return nil, err
	}
	f, err := floppy.CheckImage(o.floppy, image, now)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(o.root)
	if err != nil {
		return nil, err
	}
	d := &decision{root: root}
	if err := d.fill(ctx, o, f, now); err != nil {
		root.Close()
		return nil, err
	}
	return d, nil
}

func (d *decision) fill(ctx context.Context, o options, f *floppy.Floppy, now time.Time) error {
	in := pool.Input{
		Role: f.Config.Machine.Role, Masters: f.Config.Condor.Masters, Serves: f.Config.Condor.Serves, Flock: f.Config.Condor.Flock,
		OwnerPreempts: f.Config.Condor.OwnerPreempts, Slots: f.Config.Condor.Slots,
		Export: f.Config.Share.Export, Autofs: f.Config.Share.Autofs, CPUs: runtime.NumCPU(),
	}
	var err error
	if in.Accounts, err = jobAccounts(d.root); err != nil {
		return err
	}
	if in.Modules, err = modules(d.root); err != nil {
		return err
	}
	_, err = d.root.Stat(ownMark)
	in.Own = err == nil
	identity, err := f.Identity(now)
	if err != nil {
		return fmt.Errorf("%s: %w", f.Name, err)
	}
	if identity != nil { // not standalone
		if err := d.join(ctx, o, f, identity, &in); err != nil {
			return err
		}
	}
	machine, problems := pool.New(in)
	if len(problems) > 0 {
		for i := range problems {
			problems[i].File = f.Name
		}
		return problems
	}
	d.machine = machine
	files, err := machine.Files()
	if err != nil {
		return err
	}
	for _, file := range files {
		d.files = append(d.files, tree.File(file))
	}
	if machine.Credential {
		if err := d.certify(ctx, o, f, identity.Descriptor.CondorRootPEM(), now); err != nil {
			return err
		}
	}
	d.changes, err = tree.Compare(d.root, d.files, pool.Owned())
	return err
}

// join fills in what the credential and overlayd know, and holds that both
// mean the same machine.
func (d *decision) join(ctx context.Context, o options, f *floppy.Floppy, id *credential.Identity, in *pool.Input) error {
	s, err := o.readStatus(ctx)
	if err != nil {
		return err
	}
	if !s.Address.IsValid() {
		return fmt.Errorf("%w: the machine has no virtual address yet: %s", diag.ErrNothing, cmp.Or(s.Reason, string(s.State)))
	}
	in.Grid = id.Descriptor.Grid
	f.Config.ApplyHolder(id.Holder)
	in.Group, in.User = f.Config.Condor.Group, f.Config.Condor.User
	in.Name, in.NodeID, in.Device, in.Net = s.Name, s.NodeID, s.Device, s.Address
	for _, m := range s.Masters {
		if s.Address.Masked().Contains(m.Address) { // one of another namespace cannot be reached
			in.Roster = append(in.Roster, m.Name)
		}
	}
	if in.Current, err = current(d.root); err != nil {
		return err
	}
	if o.status == "" {
		in.Offers = readOffers(ctx, control.Dial(o.control), s)
	}
	for _, c := range []struct{ what, floppy, overlayd string }{
		{"grid", in.Grid, s.Grid}, {"group", in.Group, s.Group}, {"user", in.User, s.User}, {"role", string(in.Role), s.Role},
	} {
		if c.floppy != c.overlayd {
			return fmt.Errorf("overlayd runs on another floppy: %s %q, where %s says %q", c.what, c.overlayd, f.Name, c.floppy)
		}
	}
	return nil
}

func (o options) readStatus(ctx context.Context) (control.Status, error) {
	if o.status == "" {
		return control.Dial(o.control).Status(ctx)
	}
	text, err := os.ReadFile(o.status)
	if err != nil {
		return control.Status{}, err
	}
	var s control.Status
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return control.Status{}, fmt.Errorf("read %s: %w", o.status, err)
	}
	return s, nil
}

// jobAccounts counts the accounts slot1, slot2, ... without a gap.
func jobAccounts(root *os.Root) (int, error) {
	text, err := root.ReadFile("etc/passwd")
	if err != nil {
		return 0, err
	}
	there := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		name, _, _ := strings.Cut(line, ":")
		there[name] = true
	}
	n := 0
	for there[fmt.Sprintf("slot%d", n+1)] {
		n++
	}
	return n, nil
}

// modules returns the names of the image's modules, sorted: the builder leaves
// their list in every image that has some.
func modules(root *os.Root) ([]string, error) {
	const file = "usr/lib/grid/modules.json"
	text, err := root.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []struct {
		Name string `json:"name"`
	}
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("read /%s: %w", file, err)
	}
	var names []string
	for _, m := range list {
		names = append(names, m.Name)
	}
	slices.Sort(names)
	return names, nil
}

// drops says whether a file of ours goes that the unit reads. An own machine's
// owner may use the automounter and the NFS server, too: they stop when they
// were the grid's, and not because the role has no need of them.
func (d *decision) drops(unit string) bool {
	return slices.ContainsFunc(d.changes, func(c tree.Change) bool {
		reader, _ := pool.ReaderOf(c.Path)
		return c.Remove && reader == unit
	})
}

// result returns what write reports.
func (d *decision) result() Result {
	r := Result{Changed: []string{}, Reload: []string{}, Restart: []string{}, Waiting: d.waiting, Offer: d.machine.Offer}
	r.Start, r.Stop = d.machine.Units()
	if d.waiting != "" {
		r.Start = slices.DeleteFunc(r.Start, func(u string) bool { return u == pool.CondorUnit })
		r.Stop = append(r.Stop, pool.CondorUnit)
	}
	r.Start, r.Stop = append([]string{}, r.Start...), append([]string{}, r.Stop...)
	if d.machine.Own {
		r.Stop = slices.DeleteFunc(r.Stop, func(u string) bool { return u != pool.CondorUnit && u != pool.GuardUnit && !d.drops(u) })
	}
	for _, c := range d.changes {
		r.Changed = append(r.Changed, "/"+c.Path)
		unit, reload := pool.ReaderOf(c.Path)
		list := &r.Restart
		if reload {
			list = &r.Reload
		}
		if slices.Contains(r.Start, unit) && !slices.Contains(*list, unit) {
			*list = append(*list, unit)
		}
	}
	r.Reload = slices.DeleteFunc(r.Reload, func(u string) bool { return slices.Contains(r.Restart, u) })
	if !d.renew.IsZero() {
		r.Renew = d.renew.UTC().Format(time.RFC3339)
	}
	return r
}

// plan is the JSON of the verb plan.
func (d *decision) plan() any {
	type change struct {
		Path string `json:"path"`
		Diff string `json:"diff"`
	}
	changes := []change{}
	for _, c := range d.changes {
		changes = append(changes, change{"/" + c.Path, c.Diff()})
	}
	return struct {
		Machine pool.Machine `json:"machine"`
		Changes []change     `json:"changes"`
		Result
	}{d.machine, changes, d.result()}
}

// describe is the plan for reading.
func (d *decision) describe() string {
	m := d.machine
	text := fmt.Sprintf("%s %s of group %s", m.Role, m.Name, m.Group)
	if m.Grid != "" {
		text += " in grid " + m.Grid
	}
	text += "\n"
	for _, c := range d.changes {
		text += c.Diff()
	}
	r := d.result()
	r.Changed = nil
	return text + r.String()
}
