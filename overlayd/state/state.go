// Package state is the folder in which a node keeps what it must not forget.
//
//	lock        held while a node runs, so that no two share a key
//	node.key    PKCS #8 in PEM, with a header "Instance" that names the machine
//	            it was made on; absent on masters, whose key is on their floppy
//	trust.json  the newest descriptor and revocation lists accepted
//	            (credential.Trust)
//	lease-N     the lease of claim N (package lease)
//	holds       what a witness has promised, by records that are appended
//
// The folder has mode 0700, files 0600. A file is replaced whole, or appended
// to and synced; so whatever moment the machine dies at, what is there is what
// was there or what was to be.
//
// Invariants: a key that was made on another machine, or that others can read,
// is not used; writes happen in the order they were asked for, and nobody is
// told of one before it and all before it would survive a crash.
//
// Concurrency: a Writer's Add may be called by any goroutine, Run by one.
package state

import (
	"bytes"
	"crypto/ecdsa"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"gridappliance/credential"
	"gridappliance/floppy"
	"gridappliance/internal/atomicfile"
	"gridappliance/overlayd/lease"
)

// Names of files in the folder.
const (
	lockFile  = "lock"
	KeyFile   = "node.key"
	TrustFile = "trust.json"
	HoldsFile = "holds"
)

// LeaseFile is the name of a claim's file.
func LeaseFile(c lease.ClaimID) string { return fmt.Sprintf("lease-%d", c) }

const (
	instanceHeader = "Instance"
	maxKeyFile     = 16 << 10 // bytes
)

// ErrRunning is returned, wrapped, when another node uses the state folder.
var ErrRunning = errors.New("another overlayd is running on it")

// Lock makes the state folder if need be and takes its lock, which the
// kernel lets go of however the process ends.
func Lock(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open state: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open state: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrRunning
		}
		return nil, fmt.Errorf("open state %s: %w", dir, err)
	}
	return f, nil
}

// LoadKey returns the machine's own node key from dir, or makes and keeps a
// new one when there is none, when it was made on another machine instance (a
// copied disk must not be the same node), or when it is damaged.
func LoadKey(dir, instance string, log *slog.Logger) (*ecdsa.PrivateKey, error) {
	path := filepath.Join(dir, KeyFile)
	key, err := readKey(path, instance)
	if err == nil {
		return key, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		if !errors.Is(err, errOtherInstance) && !errors.Is(err, errDamaged) {
			return nil, err
		}
		log.Warn("node key replaced: this machine is a new node", "err", err)
	}
	if key, err = credential.NewKey(); err != nil {
		return nil, err
	}
	return key, writeKey(path, instance, key)
}

var (
	errOtherInstance = errors.New("made on another machine instance")
	errDamaged       = errors.New("damaged")
)

func readKey(path, instance string) (*ecdsa.PrivateKey, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read node key: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("read node key %s: mode %v lets others read it (chmod 600, or delete it to become a new node)", path, info.Mode().Perm())
	}
	if info.Size() > maxKeyFile {
		return nil, fmt.Errorf("read node key %s: %w: %d bytes", path, errDamaged, info.Size())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read node key: %w", err)
	}
	block, rest := pem.Decode(text)
	if block == nil || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("read node key %s: %w: not one PEM block", path, errDamaged)
	}
	if block.Headers[instanceHeader] != instance {
		return nil, fmt.Errorf("read node key %s: %w", path, errOtherInstance)
	}
	block.Headers = nil
	key, err := credential.ParseKey(pem.EncodeToMemory(block))
	if err != nil {
		return nil, fmt.Errorf("read node key %s: %w: %w", path, errDamaged, err)
	}
	return key, nil
}

// writeKey puts the key at path so that a crash leaves the old or the new.
func writeKey(path, instance string, key *ecdsa.PrivateKey) error {
	text, err := credential.FormatKey(key)
	if err != nil {
		return err
	}
	block, _ := pem.Decode(text)
	block.Headers = map[string]string{instanceHeader: instance}
	if err := atomicfile.Write(path, pem.EncodeToMemory(block), 0o600); err != nil {
		return fmt.Errorf("write node key: %w", err)
	}
	return nil
}

// LoadTrust reads what was accepted before. Without a memory, or with one that
// is damaged, the machine has seen nothing.
func LoadTrust(dir string, log *slog.Logger) (*credential.Trust, error) {
	text, err := os.ReadFile(filepath.Join(dir, TrustFile))
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

// OpenKey returns the key of the node that runs on a floppy with its state in
// dir: the floppy's on a master, else the one the node has made. It makes none.
func OpenKey(f *floppy.Floppy, dir, instance string) (*ecdsa.PrivateKey, error) {
	if f.NodeKey != nil {
		return credential.ParseKey(f.NodeKey)
	}
	return readKey(filepath.Join(dir, KeyFile), instance)
}

// OpenTrust returns what the node with its state in dir has accepted until
// now.
func OpenTrust(dir string) (*credential.Trust, error) {
	text, err := os.ReadFile(filepath.Join(dir, TrustFile))
	if err != nil {
		return nil, fmt.Errorf("read trust: %w", err)
	}
	trust, err := credential.ParseTrust(text)
	if err != nil {
		return nil, fmt.Errorf("read trust: %w", err)
	}
	return trust, nil
}
