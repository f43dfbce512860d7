package floppy

// Config is GRID.TML decoded: what its author chose, with defaults applied by
// ApplyDefaults. Field comments are the source of the reference page and of
// the comments in floppy-templates.
type Config struct {
	Version int      `toml:"version"`
	Machine Machine  `toml:"machine"`
	Network Network  `toml:"network"`
	Condor  Condor   `toml:"condor"`
	Share   Share    `toml:"share"`
	Users   Users    `toml:"users"`
	Modules []Module `toml:"modules"`
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
	Role     Role   `toml:"role"`
	Timezone string `toml:"timezone"` // IANA name; default "Etc/UTC"
	Console  string `toml:"console"`  // "login" (default) or "off": autologin on local consoles
}

// Network is the table [network].
type Network struct {
	Namespace    string   `toml:"namespace"` // default: the holder's only namespace
	Mode         string   `toml:"mode"`      // "host" (default) or "router"
	Hostname     string   `toml:"hostname"`  // additional name; C… stays the only hostname -f
	Device       string   `toml:"device"`    // default "tapipop"
	Multicast    bool     `toml:"multicast"`
	MTU          int      `toml:"mtu"`           // bytes; 0 = chosen by overlayd
	LANInterface string   `toml:"lan-interface"` // router mode only
	Bootstrap    []string `toml:"bootstrap"`     // host:port, added to the descriptor's
}

// Condor is the table [condor].
type Condor struct {
	Group         string `toml:"group"`   // default: the holder's group
	User          string `toml:"user"`    // default: the holder's user
	Masters       Choice `toml:"masters"` // "discover" (default) or a list of names
	Flock         Choice `toml:"flock"`   // true (default), false or a list of names
	OwnerPreempts bool   `toml:"owner-preempts"`
	Slots         int    `toml:"slots"` // 0 = one partitionable slot over the whole machine
}

// Share is the table [share].
type Share struct {
	Export string `toml:"export"` // default "/mnt/local"; "" exports nothing
	Autofs bool   `toml:"autofs"` // /mnt/ganfs; default true
}

// Users is the table [users].
type Users struct {
	Names []string `toml:"names"` // further login accounts
}

// Module is one [[modules]] table: a layer to add to the base.
type Module struct {
	Source string `toml:"source"`
	SHA256 string `toml:"sha256"`
}
