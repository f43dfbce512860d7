package floppy

import (
	"fmt"
	"net"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // so that a time zone is known on every system builder runs on

	"gridappliance/credential"
	"gridappliance/internal/diag"
)

// Patterns of names that DNS, Linux and the grid allow.
var (
	labelPattern    = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`) // RFC 1123 §2.1
	devicePattern   = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]{0,14}$`)                // IFNAMSIZ - 1
	outsidePattern  = regexp.MustCompile(`^(lo|eth[0-9]+|en[a-z0-9]+|wl[a-z0-9]+)$`)
	reservedPattern = regexp.MustCompile(`^(c[0-9]{9}|master.*)$`) // TRUST "Chain"
	hostNamePattern = regexp.MustCompile(`^C[0-9]{9}\.ipop$`)
	sha256Pattern   = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// systemUsers are accounts of the base that [users] must not name again.
var systemUsers = []string{"root", "daemon", "bin", "sys", "nobody", "condor", "overlayd", "griduser", "sshd", "messagebus", "statd"}

// Validate returns every problem in what the configuration means by itself:
// names, addresses, paths, and keys that need or exclude one another. Keys
// that DecodeConfig found wrong are not reported again. It is for a Config
// with its defaults applied.
func (c *Config) Validate() diag.List {
	v := validator{c: c}
	v.required("version", c.Version == 0, "write version = 1 in the first line")
	v.required("machine.role", c.Machine.Role == "", `write role = "worker" below [machine]`)
	v.machine()
	v.network()
	v.condor()
	v.share()
	v.users()
	v.modules()
	v.problems.Sort()
	return v.problems
}

// validator collects the problems of one Config.
type validator struct {
	c        *Config
	problems diag.List
}

// add reports a problem with a key, unless its value could not be read.
func (v *validator) add(path, message, remedy string) {
	if !v.c.wrong[path] {
		v.problems.Add(v.c.problem(path, message, remedy))
	}
}

// required reports a missing key, unless the file broke off before its end.
func (v *validator) required(path string, missing bool, remedy string) {
	if missing && !v.c.wrong["*"] {
		v.add(path, "is missing", remedy)
	}
}

// err reports an error of package credential about a key's value.
func (v *validator) err(path string, err error) {
	if err != nil {
		v.add(path, err.Error(), "")
	}
}

func (v *validator) machine() {
	zone := v.c.Machine.Timezone
	if _, err := time.LoadLocation(zone); err != nil || zone == "Local" || zone == "" {
		v.add("machine.timezone", fmt.Sprintf("%q is not a time zone", zone), `write an IANA name, such as "Europe/Zurich" or "Etc/UTC"`)
	}
	if v.c.Machine.Role != RoleStandalone {
		return
	}
	for _, k := range Keys {
		table, _ := k.table()
		if (table == "network" || k.Path == "condor.masters" || k.Path == "condor.flock") && v.c.Has(k.Path) {
			v.add(k.Path, `has no meaning for role "standalone", which joins no grid`, "delete it, or choose another role")
		}
	}
}

func (v *validator) network() {
	n := v.c.Network
	if n.Namespace != "" {
		v.err("network.namespace", credential.CheckNamespace(n.Namespace))
	}
	if name := strings.ToLower(n.Hostname); name != "" {
		switch {
		case !labelPattern.MatchString(name):
			v.add("network.hostname", fmt.Sprintf("%q is not a DNS label", n.Hostname), "use at most 63 of a-z 0-9 -, no dot")
		case reservedPattern.MatchString(name):
			v.add("network.hostname", fmt.Sprintf("%q is reserved", n.Hostname), "C and nine digits and names that begin with master are the grid's own")
		}
	}
	switch {
	case !devicePattern.MatchString(n.Device):
		v.add("network.device", fmt.Sprintf("%q cannot be the name of a network device", n.Device), "use a letter, then up to 14 of A-Z a-z 0-9 _ . -")
	case outsidePattern.MatchString(n.Device):
		v.add("network.device", fmt.Sprintf("%q is what Linux calls real interfaces", n.Device), `choose another, such as "tapipop"`)
	}
	v.router()
	for i, b := range n.Bootstrap {
		if problem := endpointProblem(b); problem != "" {
			v.add("network.bootstrap", fmt.Sprintf("%q %s", b, problem), `write host:port, such as "grid.example.org:4242"`)
		} else if slices.Contains(n.Bootstrap[:i], b) {
			v.add("network.bootstrap", fmt.Sprintf("%q stands there twice", b), "delete one of the two")
		}
	}
}

// router checks the two keys that belong together.
func (v *validator) router() {
	n := v.c.Network
	switch {
	case n.Mode == ModeRouter && n.LANInterface == "":
		p := v.c.problem("network.mode", `is missing: mode "router" serves a LAN`, `write lan-interface = "eth1"`)
		p.Path = "network.lan-interface"
		v.problems.Add(p)
	case n.Mode != ModeRouter && n.LANInterface != "":
		v.add("network.lan-interface", fmt.Sprintf("has no meaning in mode %q", n.Mode), `delete it, or write mode = "router"`)
	case n.LANInterface != "" && !devicePattern.MatchString(n.LANInterface):
		v.add("network.lan-interface", fmt.Sprintf("%q cannot be the name of a network interface", n.LANInterface), `write its name, such as "eth1"`)
	case n.LANInterface == "eth0":
		v.add("network.lan-interface", `"eth0" is the interface to the outside`, `name another, such as "eth1"`)
	case n.LANInterface != "" && n.LANInterface == n.Device:
		v.add("network.lan-interface", fmt.Sprintf("%q is the virtual device", n.LANInterface), `name another, such as "eth1"`)
	}
}

// endpointProblem says what is wrong with a host:port, or "".
func endpointProblem(text string) string {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return "is not host:port"
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "has no port from 1 to 65535"
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		if !addr.IsGlobalUnicast() && !addr.IsLoopback() {
			return "is not the address of one machine"
		}
		return ""
	}
	for _, label := range strings.Split(strings.TrimSuffix(host, "."), ".") {
		if !labelPattern.MatchString(label) {
			return "has no host name or address"
		}
	}
	return ""
}

func (v *validator) condor() {
	c := v.c.Condor
	if c.Group != "" {
		v.err("condor.group", credential.CheckGroup(c.Group))
	}
	if c.User != "" {
		v.err("condor.user", credential.CheckUser(c.User))
	}
	v.masters("condor.masters", c.Masters, `write "discover", or names such as ["C250000002.ipop"]`)
	for _, group := range c.Serves {
		v.err("condor.serves", credential.CheckGroup(group))
	}
	v.masters("condor.flock", c.Flock, `write true, false, or names such as ["C250000003.ipop"]`)
}

// masters checks a list of masters' names.
func (v *validator) masters(path string, choice Choice, remedy string) {
	if choice.Names != nil && len(choice.Names) == 0 {
		v.add(path, "is an empty list", remedy)
	}
	for i, name := range choice.Names {
		switch {
		case !hostNamePattern.MatchString(name):
			v.add(path, fmt.Sprintf("%q is not a master's name", name), remedy)
		case slices.Contains(choice.Names[:i], name):
			v.add(path, fmt.Sprintf("%q stands there twice", name), "delete one of the two")
		}
	}
}

// sharePattern keeps a path free of what means something in exports and
// autofs maps.
var sharePattern = regexp.MustCompile(`^/(mnt|srv)/[A-Za-z0-9._/-]+$`)

func (v *validator) share() {
	dir := v.c.Share.Export
	if dir == "" {
		return
	}
	switch {
	case !sharePattern.MatchString(dir) || path.Clean(dir) != dir:
		v.add("share.export", fmt.Sprintf("%q cannot be shared", dir), `name a directory under /mnt or /srv, such as "/mnt/local"; "" shares nothing`)
	case dir == "/mnt/ganfs" || strings.HasPrefix(dir, "/mnt/ganfs/"):
		v.add("share.export", "/mnt/ganfs is where the directories of others appear", `name another, such as "/mnt/local"`)
	}
}

func (v *validator) users() {
	for i, name := range v.c.Users.Names {
		switch {
		case credential.CheckUser(name) != nil:
			v.err("users.names", credential.CheckUser(name))
		case slices.Contains(systemUsers, name):
			v.add("users.names", fmt.Sprintf("%q is an account of the system", name), "choose another name")
		case slices.Contains(v.c.Users.Names[:i], name):
			v.add("users.names", fmt.Sprintf("%q stands there twice", name), "delete one of the two")
		}
	}
}

func (v *validator) modules() {
	sums := map[string]int{}
	for i, m := range v.c.Modules {
		prefix := modulePath(i + 1)
		switch {
		case m.Source == "":
			v.missing(prefix, "source", `write source = "https://..." or a path`)
		case !isModuleSource(m.Source):
			v.add(prefix+".source", fmt.Sprintf("%q is neither an https URL nor an absolute path", m.Source), "write https://host/path, or /path")
		}
		switch {
		case m.SHA256 == "":
			v.missing(prefix, "sha256", "sha256sum prints it")
		case !sha256Pattern.MatchString(m.SHA256):
			v.add(prefix+".sha256", "is not a SHA-256: 64 hexadecimal digits in lower case", "sha256sum prints it")
		case sums[m.SHA256] > 0:
			v.add(prefix+".sha256", "is that of "+modulePath(sums[m.SHA256])+" too", "delete one of the two")
		default:
			sums[m.SHA256] = i + 1
		}
	}
}

// missing reports a key that a module lacks, at the module's header.
func (v *validator) missing(prefix, name, remedy string) {
	if v.c.wrong[prefix+"."+name] || v.c.wrong["*"] {
		return
	}
	p := v.c.problem(prefix, "is missing", remedy)
	if v.c.Has(prefix + "." + name) {
		p = v.c.problem(prefix+"."+name, "is empty", remedy)
	}
	p.Path = prefix + "." + name
	v.problems.Add(p)
}

// isModuleSource reports whether a text is an https URL with a host and a
// path, or an absolute path.
func isModuleSource(s string) bool {
	if strings.ContainsAny(s, " \t\n\"'\\") {
		return false
	}
	if rest, ok := strings.CutPrefix(s, "https://"); ok {
		host, file, _ := strings.Cut(rest, "/")
		return host != "" && file != ""
	}
	return strings.HasPrefix(s, "/") && path.Clean(s) == s && s != "/"
}
