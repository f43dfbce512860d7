package floppy

import (
	"strings"

	"gridappliance/internal/diag"
)

// Config is GRID.TML decoded: what its author chose. The table Keys says of
// each key what it means, what values it takes and what is assumed without it.
//
// It is made in three steps: DecodeConfig (shape), ApplyDefaults (everything
// left out), Validate (meaning). A Config that a program fills in without
// DecodeConfig counts each key with a zero value as left out.
type Config struct {
	Version int
	Machine Machine
	Network Network
	Condor  Condor
	Share   Share
	Users   Users
	Modules []Module

	// where says for each key that was set where it stands, as a Problem
	// with its position, path and excerpt filled in.
	where map[string]diag.Problem
	// wrong holds the keys whose problem has been reported already.
	wrong map[string]bool
}

// Role is what a machine is in the grid.
type Role string

// The roles a floppy may name.
const (
	RoleWorker     Role = "worker"     // execute only (HTCondor: execution point)
	RoleClient     Role = "client"     // submit and execute (access point)
	RoleMaster     Role = "master"     // central manager
	RoleStandalone Role = "standalone" // a grid of one, without an overlay
)

// Machine is the table [machine].
type Machine struct {
	Role     Role
	Timezone string // IANA name
	Console  string // ConsoleLogin or ConsoleOff
}

// The values of machine.console.
const (
	ConsoleLogin = "login"
	ConsoleOff   = "off"
)

// Network is the table [network].
type Network struct {
	Namespace    string // "" = the only one of the holder
	Mode         string // ModeHost or ModeRouter
	Hostname     string // additional name; C… stays the only hostname -f
	Device       string
	Multicast    bool
	MTU          int    // bytes; 0 = chosen by overlayd
	LANInterface string // router mode only
	Bootstrap    []string
}

// The values of network.mode.
const (
	ModeHost   = "host"
	ModeRouter = "router"
)

// Condor is the table [condor].
type Condor struct {
	Group         string   // "" = the holder's
	User          string   // "" = the holder's
	Serves        []string // of a master: groups that are to take its pool before others
	Masters       Choice   // all that the grid has ("discover"), or names
	Flock         Choice   // to all other masters (true), none (false), or names
	OwnerPreempts bool
	Slots         int // 0 = one partitionable slot over the whole machine
}

// Choice is all of something, or the ones named; neither is none.
type Choice struct {
	All   bool
	Names []string
}

// Share is the table [share].
type Share struct {
	Export string // absolute path; "" exports nothing
	Autofs bool   // /mnt/ganfs
}

// Users is the table [users].
type Users struct {
	Names []string // further login accounts
}

// Module is one [[modules]] table: a layer to add to the base.
type Module struct {
	Source string // path on the machine's disks, or https URL
	SHA256 string // 64 hexadecimal digits
}

// Has reports whether the key, such as "network.mtu", was set by GRID.TML or
// by IPOP.XML, rather than by ApplyDefaults.
func (c *Config) Has(path string) bool {
	_, ok := c.where[path]
	return ok
}

// ApplyDefaults fills in every key that was left out and has a default.
// Group, user and namespace stay empty: they come with the credential.
func (c *Config) ApplyDefaults() {
	for _, k := range Keys {
		if k.Default == nil || k.field == nil || c.Has(k.Path) {
			continue
		}
		switch p := k.field(c).(type) {
		case *string:
			setZero(p, k.Default.(string))
		case *int:
			setZero(p, k.Default.(int))
		case *bool:
			setZero(p, k.Default.(bool))
		case *Choice:
			if !p.All && p.Names == nil {
				*p = Choice{All: true}
			}
		}
	}
}

func setZero[T comparable](p *T, value T) {
	var zero T
	if *p == zero {
		*p = value
	}
}

// Values returns what every key says, as string, int, bool or []string, and
// the modules as a list of maps: the configuration for printing.
func (c *Config) Values() map[string]any {
	values := map[string]any{}
	for i := range Keys {
		k := &Keys[i]
		if k.field == nil {
			continue
		}
		switch p := k.field(c).(type) {
		case *string:
			values[k.Path] = *p
		case *Role:
			values[k.Path] = string(*p)
		case *int:
			values[k.Path] = *p
		case *bool:
			values[k.Path] = *p
		case *[]string:
			values[k.Path] = append([]string{}, *p...)
		case *Choice:
			values[k.Path] = k.choiceValue(*p)
		}
	}
	modules := []map[string]string{}
	for _, m := range c.Modules {
		modules = append(modules, map[string]string{"source": m.Source, "sha256": m.SHA256})
	}
	values["modules"] = modules
	return values
}

// choiceValue returns a Choice as it stands in GRID.TML.
func (k *Key) choiceValue(c Choice) any {
	switch {
	case c.Names != nil:
		return c.Names
	case k.Kind == WordOrList:
		return k.Words[0]
	}
	return c.All
}

// problem returns a Problem about a key, with its position if it was set.
func (c *Config) problem(path, message, remedy string) diag.Problem {
	p, ok := c.where[path]
	if !ok {
		p = diag.Problem{File: c.where[""].File, Path: path}
	}
	p.Message, p.Remedy = message, remedy
	return p
}

// roles is every role, in the order of the reference.
var roles = []Role{RoleWorker, RoleClient, RoleMaster, RoleStandalone}

// roleNames returns roles as text.
func roleNames() []string {
	names := make([]string, len(roles))
	for i, r := range roles {
		names[i] = string(r)
	}
	return names
}

// find returns the description of the key at path and a pointer to its field.
func (c *Config) find(path string) (*Key, any) {
	generic := path
	if n := len(c.Modules); n > 0 {
		generic = strings.Replace(path, modulePath(n)+".", "modules.", 1)
	}
	for i := range Keys {
		k := &Keys[i]
		switch {
		case k.field != nil && k.Path == path:
			return k, k.field(c)
		case k.module != nil && k.Path == generic && generic != path:
			return k, k.module(&c.Modules[len(c.Modules)-1])
		}
	}
	return nil, nil
}
