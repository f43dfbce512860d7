package apply

import (
	"crypto/ed25519"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io"
	"io/fs"
	"path"

	"golang.org/x/crypto/ssh"
)

// Identity is what tells this machine from every other, made afresh.
type Identity struct {
	MachineID  []byte // 32 hex digits and a line feed, machine-id(5)
	HostKey    []byte // ed25519, OpenSSH's private form
	HostPublic []byte // its public line
}

// Paths of an identity.
const (
	machineIDPath = "var/lib/grid/machine-id"
	liveIDPath    = "run/machine-id"                    // bind-mounted on /etc/machine-id by the initrd
	hostKeyPath   = "etc/ssh/keys/ssh_host_ed25519_key" // as the image's sshd_config has it
)

// carried are the folders whose contents belong to one machine, with what in
// them does not: what overlayd remembers of versions seen protects the grid
// from older descriptors and is no identity. A master's fixed key is on its
// floppy, not here.
var carried = []struct {
	path string
	keep []string
}{
	{"var/lib/overlayd", []string{"trust.json"}},
	{"etc/condor/grid", nil},
}

// NewIdentity makes an identity from entropy, crypto/rand's Reader except in
// tests.
func NewIdentity(entropy io.Reader) (Identity, error) {
	var id Identity
	number := make([]byte, 16)
	seed := make([]byte, ed25519.SeedSize)
	if _, err := io.ReadFull(entropy, number); err != nil {
		return id, err
	}
	if _, err := io.ReadFull(entropy, seed); err != nil {
		return id, err
	}
	number[6] = number[6]&0x0f | 0x40 // machine-id(5): a version 4 UUID
	number[8] = number[8]&0x3f | 0x80
	id.MachineID = []byte(hex.EncodeToString(number) + "\n")
	key := ed25519.NewKeyFromSeed(seed)
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		return id, err
	}
	public, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		return id, err
	}
	id.HostKey = pem.EncodeToMemory(block)
	id.HostPublic = ssh.MarshalAuthorizedKey(public)
	return id, nil
}

// renew gives the machine a new identity and removes what belonged to the old
// one. The stamp names the new instance only after all of it, so that a run
// that ended half way does it again.
func (j *job) renew() error {
	t := j.tree
	j.result.Fresh, j.result.Copied = true, j.before != nil
	for _, c := range carried {
		if err := t.removeInside(c.path, c.keep...); err != nil {
			return err
		}
	}
	if j.options.Identity == nil {
		return nil
	}
	id, err := j.options.Identity()
	if err != nil {
		return err
	}
	if err := t.ensureDir(path.Dir(hostKeyPath), 0o700); err != nil {
		return err
	}
	if err := t.ensureDir(path.Dir(machineIDPath), 0o711); err != nil {
		return err
	}
	if err := t.writeFile(hostKeyPath, id.HostKey, 0o600, owner{}); err != nil {
		return err
	}
	if err := t.writeFile(hostKeyPath+".pub", id.HostPublic, 0o644, owner{}); err != nil {
		return err
	}
	// The initrd has made a first machine-id before systemd started; it stays,
	// because the journal of this boot is filed under it.
	_, err = t.root.Stat(machineIDPath)
	if j.before == nil && err == nil {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := t.writeFile(machineIDPath, id.MachineID, 0o600, owner{}); err != nil {
		return err
	}
	return t.overwrite(liveIDPath, id.MachineID)
}
