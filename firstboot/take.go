package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"gridappliance/credential"
	"gridappliance/firstboot/apply"
	"gridappliance/firstboot/plan"
	"gridappliance/firstboot/source"
	"gridappliance/floppy"
	"gridappliance/internal/diag"
)

// taken is a floppy that passed every check, and the plan it makes.
type taken struct {
	source string
	plan   *plan.Plan
	newest time.Time // of the signed objects on it
	now    time.Time // what it was judged by; the clock is not below it
}

// errNoFloppy is returned when every source is empty.
var errNoFloppy = fmt.Errorf("no floppy found: %w", diag.ErrNothing)

// find returns the floppy of file, or of the first source that has one, and
// what was passed over.
func (m *machine) find(ctx context.Context, file string) (*source.Found, []source.Passed, error) {
	if file == "" {
		found, passed, err := source.Find(ctx, m.sources())
		if err == nil && found == nil {
			err = errNoFloppy
		}
		return found, passed, err
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, err
	}
	image, err := floppy.Unwrap(data)
	if err != nil {
		return nil, nil, err
	}
	return &source.Found{Source: file, Image: image}, nil, nil
}

// judge checks a floppy and plans what it makes of the machine. The error is a
// diag.List of everything wrong with the floppy, or what kept the machine from
// being read.
func (m *machine) judge(found *source.Found, stamp *apply.Stamp) (*taken, error) {
	f, err := floppy.Open(found.Source, found.Image)
	if err != nil {
		// CheckImage says more about a broken floppy than Open.
		if _, all := floppy.CheckImage(found.Source, found.Image, m.now(stamp)); all != nil {
			err = all
		}
		return nil, err
	}
	newest := newestSigned(f)
	t := &taken{source: found.Source, newest: newest, now: later(m.now(stamp), newest)}
	if problems := f.Check(t.now); len(problems) > 0 {
		return nil, problems
	}
	in := plan.Input{Config: f.Config, Image: found.Image, SSHKeys: f.SSHKeys}
	id, err := f.Identity(t.now)
	if err != nil {
		return nil, diag.List{{File: found.Source, Message: err.Error()}}
	}
	if id != nil {
		in.Grid, in.Group, in.User = id.Descriptor.Grid, f.Config.Condor.Group, f.Config.Condor.User
		if in.Group == "" {
			in.Group = id.Holder.Group
		}
		if in.User == "" {
			in.User = id.Holder.User
		}
		for _, n := range id.Descriptor.Namespaces {
			in.Pools = append(in.Pools, n.Pool)
		}
		in.Overlay = bytes.Join([][]byte{f.Descriptor, f.HolderCert, f.HolderKey, f.NodeKey}, []byte{0})
	}
	facts, err := m.facts(f.Config.Machine.Timezone)
	if err != nil {
		return nil, err
	}
	if t.plan, err = plan.Make(in, facts); err != nil {
		return nil, named(found.Source, err)
	}
	return t, nil
}

// named puts the floppy's name before the files that problems name.
func named(source string, err error) error {
	list := diag.Of(err)
	for i := range list {
		if !strings.HasPrefix(list[i].File, "/") { // else it is a file of this machine
			list[i].File = source + "/" + list[i].File
		}
	}
	if list == nil {
		return err
	}
	return list
}

// newestSigned returns the latest moment that a signed object on f proves to
// have passed. Nothing is verified here: the caller judges f by a time not
// below it, and keeps it only when f is accepted.
func newestSigned(f *floppy.Floppy) time.Time {
	var newest time.Time
	if d, err := credential.ParseDescriptor(f.Descriptor); err == nil {
		newest = later(newest, d.Issued)
	}
	for _, text := range [][]byte{f.HolderCert, f.IssuerCert} {
		for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
			if c, err := x509.ParseCertificate(block.Bytes); err == nil {
				newest = later(newest, c.NotBefore)
			}
		}
	}
	return newest
}

// isBroken says whether err is about the floppy rather than the machine.
func isBroken(err error) bool { return diag.Of(err) != nil }

// isNone says whether err is that there is no floppy anywhere.
func isNone(err error) bool { return errors.Is(err, errNoFloppy) }
