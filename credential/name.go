package credential

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Role is what a machine may be in the grid.
type Role string

// The roles a certificate may carry. Waypoint and publisher are reserved for
// later: they may stand in a certificate and mean nothing yet, as any role
// this version does not know.
const (
	RoleWorker    Role = "worker"
	RoleClient    Role = "client"
	RoleMaster    Role = "master"
	RoleWaypoint  Role = "waypoint"
	RolePublisher Role = "publisher"
)

// machineRoles are the roles of which a node has exactly one.
var machineRoles = []Role{RoleWorker, RoleClient, RoleMaster}

// The groups that TRUST reserves. Only a master's holder, signed by a root,
// carries GroupInfra; nobody carries the others.
const (
	GroupInfra     = "infra"
	GroupWitnesses = "witnesses" // of a witness-only machine; not privileged
)

var reservedGroups = []string{GroupInfra, "condor", "root"}

// Grid, group and role become parts of an HTCondor subject and of its map
// file's expressions, user also a Unix account, namespace only a label.
var (
	namePattern      = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)
	userPattern      = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,31}$`)
	namespacePattern = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._-]{0,31}$`)
	instancePattern  = regexp.MustCompile(`^[A-Za-z0-9:._-]{1,128}$`)
	hostNamePattern  = regexp.MustCompile(`^[cC][0-9]{9}$`)
	masterPattern    = regexp.MustCompile(`^master-[1-9][0-9]?$`)
	witnessPattern   = regexp.MustCompile(`^witness-[1-9][0-9]?$`)

	condorNamePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
)

const (
	nameRule      = "a lower-case letter, then up to 31 of a-z 0-9 -"
	userRule      = "a lower-case letter, then up to 31 of a-z 0-9 _ -"
	namespaceRule = "a letter, then up to 31 of A-Z a-z 0-9 . _ -"
)

// CheckGrid, CheckGroup, CheckUser and CheckNamespace return nil when the name
// may be written as a name of that kind, else an error with the rule. They do
// not know which names are reserved; CheckUnreserved does.
func CheckGrid(name string) error  { return checkName("grid", name, namePattern, nameRule) }
func CheckGroup(name string) error { return checkName("group", name, namePattern, nameRule) }
func CheckUser(name string) error  { return checkName("user", name, userPattern, userRule) }
func CheckNamespace(name string) error {
	return checkName("namespace", name, namespacePattern, namespaceRule)
}

func checkName(what, name string, pattern *regexp.Regexp, rule string) error {
	if !pattern.MatchString(name) {
		return fmt.Errorf("%s %q: %w: a %s is %s", what, name, ErrFormat, what, rule)
	}
	return nil
}

// CheckUnreserved returns ErrReserved when group or user may not be given to a
// worker or client.
func CheckUnreserved(user, group string) error {
	if slices.Contains(reservedGroups, group) {
		return fmt.Errorf("group %q: %w: only a master signed by the grid's root is in %q", group, ErrReserved, GroupInfra)
	}
	if isReservedUser(user) {
		return fmt.Errorf("user %q: %w: C and nine digits, master*, witness*, infra, condor and root are not for people", user, ErrReserved)
	}
	return nil
}

func isReservedUser(user string) bool {
	return hostNamePattern.MatchString(user) || strings.HasPrefix(user, "master") ||
		strings.HasPrefix(user, "witness") || slices.Contains(reservedGroups, user)
}
