package node

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"gridappliance/credential"
	"gridappliance/internal/atomicfile"
	"gridappliance/overlayd/state"
)

// identify verifies the floppy, holds its descriptor against what this machine
// has accepted before, and returns the holder's identity under the descriptor
// that counts: a floppy that was made before the newest descriptor still lets
// its holder in, with the newest.
//
// Another grid's floppy begins a new memory, whatever the grid's name: whoever
// puts a floppy into a machine decides which grid it is in.
func (n *Node) identify(now time.Time) (*credential.Identity, error) {
	f := n.cfg.Floppy
	identity, err := f.Identity(now)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(n.cfg.StateDir, state.TrustFile)
	trust, err := state.LoadTrust(n.cfg.StateDir, n.log)
	if err != nil {
		return nil, err
	}
	changed, err := trust.AcceptDescriptor(f.Descriptor)
	switch {
	case errors.Is(err, credential.ErrWrongGrid), errors.Is(err, credential.ErrSignature):
		n.log.Warn("memory of another grid dropped", "reason", err)
		trust = new(credential.Trust)
		changed, err = trust.AcceptDescriptor(f.Descriptor)
	case errors.Is(err, credential.ErrOlder):
		n.log.Warn("the floppy's descriptor is not the newest this machine has seen: the newest counts", "reason", err)
		err = nil
	case errors.Is(err, credential.ErrConflict):
		n.log.Error("two descriptors of one version: neither counts, ask the grid's founder", "reason", err)
		err = nil // whether an earlier one counts, trust knows
	}
	if changed { // also after a conflict: it is remembered
		if err := atomicfile.Write(path, trust.Append(nil), 0o600); err != nil {
			return nil, fmt.Errorf("remember descriptor: %w", err)
		}
	}
	if err != nil {
		return nil, err
	}
	n.trust = trust
	d, err := trust.Descriptor()
	if err != nil {
		return nil, err
	}
	verifier, err := trust.Verifier()
	if err != nil {
		return nil, err
	}
	if _, err := verifier.VerifyHolder(identity.Chain, now); err != nil {
		return nil, err
	}
	if d.Version == identity.Descriptor.Version {
		return identity, nil
	}
	return credential.Open(d.Text(), f.HolderCert, f.HolderKey, now)
}
