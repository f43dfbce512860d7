package apply

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"gridappliance/firstboot/plan"
	"gridappliance/floppy"
)

// Files of firstboot itself, relative to the root.
const (
	StampPath   = "var/lib/grid/stamp.json"
	pendingPath = "var/lib/grid/pending.json"

	// AppliedMark exists while the stamp's plan holds in full; every service of
	// a role has it as a condition.
	AppliedMark = "run/grid/applied"
	// OverlayMark exists beside it when the role has a virtual network.
	OverlayMark = "run/grid/overlay"
)

// stampVersion is the form of stamp.json.
const stampVersion = 1

// Stamp is the mark that a plan was applied in full, and what that plan was.
// It is replaced last of all files.
type Stamp struct {
	Version  int         `json:"version"`
	Instance Instance    `json:"instance"`         // the machine it was applied on
	Newest   time.Time   `json:"newest,omitzero"`  // of all signed objects seen: the clock is never below
	Source   string      `json:"source,omitempty"` // where the floppy came from
	Floppy   string      `json:"floppy,omitempty"` // sha256 of its image, hex; "" before the first
	Plan     string      `json:"plan,omitempty"`   // hash over all of the below
	Role     floppy.Role `json:"role,omitempty"`
	Grid     string      `json:"grid,omitempty"`
	Group    string      `json:"group,omitempty"`
	User     string      `json:"user,omitempty"`
	Hostname string      `json:"hostname,omitempty"` // additional name
	Device   string      `json:"device,omitempty"`   // plan.Plan.Device
	Before   *Before     `json:"before,omitempty"`   // of an own machine

	Entries map[string]string `json:"entries,omitempty"` // path -> plan.Entry.Hash
	Made    []string          `json:"made,omitempty"`    // folders made on the way to them
	Users   []plan.User       `json:"users,omitempty"`
	Units   []plan.Unit       `json:"units,omitempty"`
}

// Overlay says whether the stamp's role has a virtual network.
func (s *Stamp) Overlay() bool { return s.Floppy != "" && s.Role != floppy.RoleStandalone }

// Instance identifies the machine, as opposed to its disk.
type Instance struct {
	UUID       string `json:"uuid,omitempty"`       // SMBIOS product UUID
	Generation string `json:"generation,omitempty"` // VM generation ID; changes with snapshots and copies
}

// Same says whether i and j are one machine. A generation ID that only one of
// them has says nothing: it is an option of the hypervisor.
func (i Instance) Same(j Instance) bool {
	return i.UUID == j.UUID && (i.Generation == j.Generation || i.Generation == "" || j.Generation == "")
}

// ReadStamp returns the tree's stamp, nil when it has none.
func ReadStamp(t *Tree) (*Stamp, error) {
	var s Stamp
	found, err := readJSON(t, StampPath, &s)
	if err != nil || !found {
		return nil, err
	}
	if s.Version != stampVersion {
		return nil, fmt.Errorf("read /%s: has version %d, this firstboot knows %d", StampPath, s.Version, stampVersion)
	}
	return &s, nil
}

// pending is written before the first change of an Apply and removed after its
// stamp: everything that may stand half made if neither the stamp nor the next
// plan names it.
type pending struct {
	Entries []string `json:"entries"` // paths
	Made    []string `json:"made"`    // folders
	Users   []string `json:"users"`   // names
	Before  *Before  `json:"before,omitempty"`
}

// readJSON decodes the file name into v, and says whether it is there.
func readJSON(t *Tree, name string, v any) (bool, error) {
	b, err := t.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return false, fmt.Errorf("read /%s: %w", name, err)
	}
	return true, nil
}

// encode returns v as it stands in a file.
func encode(v any) []byte {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		panic(err) // our own types hold nothing that JSON has not
	}
	return append(b, '\n')
}
