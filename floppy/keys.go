package floppy

// Kind is the shape of a key's value.
type Kind string

// The kinds of value; the text is what a person reads.
const (
	Text       Kind = "text"
	Word       Kind = "one of the words"
	Whole      Kind = "whole number"
	Boolean    Kind = "true or false"
	Texts      Kind = "list of texts"
	WordOrList Kind = "the word or a list of texts"
	BoolOrList Kind = "true, false or a list of texts"
)

// Key describes one key of GRID.TML. The table Keys is the only place where a
// key is described: the decoder, the defaults, the checks of single values,
// the templates and the reference page all come from it.
type Key struct {
	Path    string   // "network.mtu"; a key of [[modules]] is "modules.source"
	Kind    Kind     //
	Words   []string // Word: the values allowed; WordOrList: the one word
	Min     int      // Whole: smallest and largest value
	Max     int      //
	Default any      // string, int or bool; nil = none
	Without string   // what holds without the key, where Default does not say it all
	Example string   // a value as TOML, for the complete template
	Doc     string   // what it means, for a person; sentences

	field  func(*Config) any // *string, *Role, *int, *bool, *[]string or *Choice
	module func(*Module) any // *string; only for keys of [[modules]]
}

// Table describes one table of GRID.TML.
type Table struct {
	Name string // "machine"; "" = the top
	List bool   // [[name]], any number of times
	Doc  string
}

// Version is the schema's version that this program reads.
const Version = 1

// Tables lists the tables in the order of the templates.
var Tables = []Table{
	{Name: "", Doc: "It stands before the first table."},
	{Name: "machine", Doc: "What this machine is."},
	{Name: "network", Doc: "Its place in the virtual network. Not used by role \"standalone\"."},
	{Name: "condor", Doc: "Its place in the pool of HTCondor."},
	{Name: "share", Doc: "Files shared with the other machines of the grid."},
	{Name: "users", Doc: "Who may log in."},
	{Name: "modules", List: true, Doc: "Layers to add to the system, lowest first; one table each."},
}

// Keys lists every key, in the order of the templates.
var Keys = []Key{
	{
		Path: "version", Kind: Whole, Min: 1, Max: Version, Example: "1",
		Doc:   "The version of this file's format. Required, so that a later program never misreads it.",
		field: func(c *Config) any { return &c.Version },
	},
	{
		Path: "machine.role", Kind: Word, Words: roleNames(), Example: `"worker"`,
		Doc: "What the machine is: worker (runs jobs), client (runs and submits jobs), master (brings jobs and machines together), " +
			"standalone (a grid of one, to try everything with one image). Required. The credential must allow it.",
		field: func(c *Config) any { return &c.Machine.Role },
	},
	{
		Path: "machine.timezone", Kind: Text, Default: "Etc/UTC", Example: `"Europe/Zurich"`,
		Doc:   "The time zone, by its IANA name.",
		field: func(c *Config) any { return &c.Machine.Timezone },
	},
	{
		Path: "machine.console", Kind: Word, Words: []string{ConsoleLogin, ConsoleOff}, Default: ConsoleLogin, Example: `"off"`,
		Doc:   "Whether the local consoles log in griduser by themselves (login) or ask for a password (off). Who has the console has the disk; a machine in a public place still looks better with off.",
		field: func(c *Config) any { return &c.Machine.Console },
	},
	{
		Path: "network.namespace", Kind: Text, Without: "the credential's namespace, if it has only one", Example: `"archer"`,
		Doc:   "The virtual network to join, of those in the credential.",
		field: func(c *Config) any { return &c.Network.Namespace },
	},
	{
		Path: "network.mode", Kind: Word, Words: []string{ModeHost, ModeRouter}, Default: ModeHost, Example: `"router"`,
		Doc:   "host joins this machine. router also joins every machine on the LAN behind it, and answers their DHCP; the credential needs the right \"router\".",
		field: func(c *Config) any { return &c.Network.Mode },
	},
	{
		Path: "network.hostname", Kind: Text, Without: "the address's name only, such as C250000002.ipop", Example: `"oak"`,
		Doc:   "An additional name for this machine, one DNS label. C and nine digits and names that begin with master are reserved.",
		field: func(c *Config) any { return &c.Network.Hostname },
	},
	{
		Path: "network.device", Kind: Text, Default: "tapipop", Example: `"tap0"`,
		Doc:   "The name of the virtual network device, at most 15 characters.",
		field: func(c *Config) any { return &c.Network.Device },
	},
	{
		Path: "network.multicast", Kind: Boolean, Default: true, Example: "false",
		Doc:   "Whether multicast, and so mDNS, is carried to the other machines.",
		field: func(c *Config) any { return &c.Network.Multicast },
	},
	{
		Path: "network.mtu", Kind: Whole, Min: 1280, Max: 9000, Without: "the largest that the paths carry", Example: "1280",
		Doc:   "The largest packet of the virtual network, in bytes.",
		field: func(c *Config) any { return &c.Network.MTU },
	},
	{
		Path: "network.lan-interface", Kind: Text, Without: "none; mode \"router\" needs it", Example: `"eth1"`,
		Doc:   "The network interface of the LAN that mode \"router\" serves.",
		field: func(c *Config) any { return &c.Network.LANInterface },
	},
	{
		Path: "network.bootstrap", Kind: Texts, Without: "those that the grid's descriptor names", Example: `["grid.example.org:4242"]`,
		Doc:   "Further places of first contact, each host:port.",
		field: func(c *Config) any { return &c.Network.Bootstrap },
	},
	{
		Path: "condor.group", Kind: Text, Without: "the credential's", Example: `"physics"`,
		Doc:   "The group whose jobs come first on this machine; it must be the credential's.",
		field: func(c *Config) any { return &c.Condor.Group },
	},
	{
		Path: "condor.user", Kind: Text, Without: "the credential's", Example: `"alice"`,
		Doc:   "The machine's owner, whose jobs come first of all; it must be the credential's.",
		field: func(c *Config) any { return &c.Condor.User },
	},
	{
		Path: "condor.masters", Kind: WordOrList, Words: []string{"discover"}, Default: "discover", Example: `["C250000002.ipop"]`,
		Doc:   "The masters to report to: discover finds them in the grid and follows when one goes or comes; a list names masters of the grid's roster.",
		field: func(c *Config) any { return &c.Condor.Masters },
	},
	{
		Path: "condor.serves", Kind: Texts, Without: "none: all groups alike", Example: `["physics"]`,
		Doc:   "On a master: the groups whose machines are to take its pool before others, where masters form several.",
		field: func(c *Config) any { return &c.Condor.Serves },
	},
	{
		Path: "condor.flock", Kind: BoolOrList, Default: true, Example: `["C250000003.ipop"]`,
		Doc:   "Whether jobs that find no machine at the first master go on to all others (true), to none (false), or to those named.",
		field: func(c *Config) any { return &c.Condor.Flock },
	},
	{
		Path: "condor.owner-preempts", Kind: Boolean, Default: true, Example: "false",
		Doc:   "Whether the owner's jobs, then the group's, end jobs of others that run on this machine; and whether, on a client, jobs of others wait while somebody works there.",
		field: func(c *Config) any { return &c.Condor.OwnerPreempts },
	},
	{
		Path: "condor.slots", Kind: Whole, Min: 1, Max: 1024, Without: "one slot that divides itself as jobs ask", Example: "2",
		Doc:   "Into how many equal slots the machine is divided.",
		field: func(c *Config) any { return &c.Condor.Slots },
	},
	{
		Path: "share.export", Kind: Text, Default: "/mnt/local", Example: `""`,
		Doc:   "The directory that every machine of the grid sees, read-only, as /mnt/ganfs/<this machine>; it stands under /mnt or /srv. \"\" shares nothing. Only world-readable files are shared.",
		field: func(c *Config) any { return &c.Share.Export },
	},
	{
		Path: "share.autofs", Kind: Boolean, Default: true, Example: "false",
		Doc:   "Whether the shared directories of the other machines appear under /mnt/ganfs.",
		field: func(c *Config) any { return &c.Share.Autofs },
	},
	{
		Path: "users.names", Kind: Texts, Without: "griduser only", Example: `["alice", "bob"]`,
		Doc:   "Further accounts on this machine. They log in with the keys of SSHKEYS.",
		field: func(c *Config) any { return &c.Users.Names },
	},
	{
		Path: "modules.source", Kind: Text, Example: `"https://example.org/verilator.squashfs"`,
		Doc:    "Where the module is: an https URL, or an absolute path on the machine's own disks. Required.",
		module: func(m *Module) any { return &m.Source },
	},
	{
		Path: "modules.sha256", Kind: Text, Example: `"0000000000000000000000000000000000000000000000000000000000000000"`,
		Doc:    "The SHA-256 of the module's file in hexadecimal, which is the module's only trust. Required.",
		module: func(m *Module) any { return &m.SHA256 },
	},
}
