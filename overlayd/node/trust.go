package node

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"gridappliance/credential"
	"gridappliance/internal/atomicfile"
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
	path := filepath.Join(n.cfg.StateDir, trustFile)
	trust, err := loadTrust(path, n.log)
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

// loadTrust reads the memory at path. Without one, or with one that is
// damaged, the machine has seen nothing.
func loadTrust(path string, log *slog.Logger) (*credential.Trust, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return new(credential.Trust), nil
	}
	if err != nil {
		return nil, fmt.Errorf("read trust: %w", err)
	}
	trust, err := credential.ParseTrust(text)
	if err != nil {
		log.Warn("memory of accepted descriptors is damaged: starting anew", "err", err)
		return new(credential.Trust), nil
	}
	return trust, nil
}
