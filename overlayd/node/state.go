package node

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
	"gridappliance/internal/atomicfile"
)

// The state folder, mode 0700:
//
//	lock        held while a node runs, so that no two share a key
//	node.key    mode 0600: PKCS #8 in PEM, with a header "Instance" that names
//	            the machine it was made on; absent on masters, whose key is on
//	            their floppy
//	trust.json  mode 0600: the newest descriptor and revocation lists accepted
//	            (credential.Trust)
const (
	lockFile       = "lock"
	keyFile        = "node.key"
	trustFile      = "trust.json"
	instanceHeader = "Instance"
	maxKeyFile     = 16 << 10 // bytes
)

// ErrRunning is returned, wrapped, when another node uses the state folder.
var ErrRunning = errors.New("another overlayd is running on it")

// lockState makes the state folder if need be and takes its lock, which the
// kernel lets go of however the process ends.
func lockState(dir string) (*os.File, error) {
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

// loadKey returns the machine's own node key from dir, or makes and keeps a
// new one when there is none, when it was made on another machine instance (a
// copied disk must not be the same node), or when it is damaged.
func loadKey(dir, instance string, log *slog.Logger) (*ecdsa.PrivateKey, error) {
	path := filepath.Join(dir, keyFile)
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
