package compose

import (
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Accounts is the users and groups of a system by name.
type Accounts struct{ Users, Groups map[string]uint32 }

// ParseAccounts reads passwd and group; a line without a number is passed over.
func ParseAccounts(passwd, group []byte) Accounts {
	return Accounts{ids(passwd), ids(group)}
}

func ids(text []byte) map[string]uint32 {
	out := map[string]uint32{}
	for _, r := range colonLines(text) {
		if id, ok := idOf(r.text); ok && r.key != "" {
			out[r.key] = id
		}
	}
	return out
}

// idOf returns the third field of a line of passwd or group.
func idOf(line string) (uint32, bool) {
	f := strings.Split(line, ":")
	if len(f) < 3 {
		return 0, false
	}
	id, err := strconv.ParseUint(f[2], 10, 32)
	return uint32(id), err == nil
}

// Ids of accounts that modules bring: between those that adduser gives from
// 100 up and those that systemd-sysusers gives from 999 down, and below 1000,
// because journald and logind treat others as persons.
const (
	placeFirst = 200
	placeCount = 600
)

// Place gives every name of an account of a module its id: known names keep
// theirs, any other gets the first free one from a place that its name alone
// decides. So an account keeps its id, and the files of the user layer their
// owner, whatever base and modules lie beside it. Users and groups of one
// name get one number. names are in the order of layers, lowest first. A name
// for which no id is free is left out.
func Place(known Accounts, names []string) Accounts {
	out := Accounts{map[string]uint32{}, map[string]uint32{}}
	taken := map[uint32]bool{}
	for _, m := range []map[string]uint32{known.Users, known.Groups} {
		for _, id := range m {
			taken[id] = true
		}
	}
	for _, n := range names {
		u, isUser := known.Users[n]
		g, isGroup := known.Groups[n]
		id, free := u, true
		switch {
		case isUser && isGroup:
		case isUser:
			g = u
		case isGroup:
			u = g
		default:
			if id, free = freeID(taken, n); !free {
				continue
			}
			u, g = id, id
			taken[id] = true
		}
		if _, done := out.Users[n]; !done {
			out.Users[n], out.Groups[n] = u, g
		}
	}
	return out
}

func freeID(taken map[uint32]bool, name string) (uint32, bool) {
	h := fnv.New32a()
	h.Write([]byte(name))
	start := h.Sum32() % placeCount
	for i := range uint32(placeCount) {
		if id := placeFirst + (start+i)%placeCount; !taken[id] {
			return id, true
		}
	}
	return 0, false
}

// Names returns the first fields of lines of passwd or group.
func Names(text []byte) []string {
	var out []string
	for _, r := range colonLines(text) {
		if r.key != "" && !slices.Contains(out, r.key) {
			out = append(out, r.key)
		}
	}
	return out
}

// Renumber returns passwd and group lines with the ids of a. A primary group
// is found by its number in was, the accounts that the lines came from.
func Renumber(passwd, group []byte, was, a Accounts) (newPasswd, newGroup []byte) {
	groupName := map[uint32]string{}
	for n, id := range was.Groups {
		groupName[id] = n
	}
	renumber := func(text []byte, ids map[string]uint32, primary bool) []byte {
		rs := colonLines(text)
		for i, r := range rs {
			f := strings.Split(r.text, ":")
			if id, ok := ids[r.key]; ok && len(f) > 3 {
				f[2] = strconv.FormatUint(uint64(id), 10)
			}
			if primary && len(f) > 3 {
				old, err := strconv.ParseUint(f[3], 10, 32)
				if id, ok := a.Groups[groupName[uint32(old)]]; ok && err == nil {
					f[3] = strconv.FormatUint(uint64(id), 10)
				}
			}
			rs[i].text = strings.Join(f, ":")
		}
		return lines(rs)
	}
	return renumber(passwd, a.Users, true), renumber(group, a.Groups, false)
}

// SystemAccounts returns the lines of passwd or group whose id is a system
// account's: 1 to 999.
func SystemAccounts(text []byte) []byte {
	var out []record
	for _, r := range colonLines(text) {
		if id, ok := idOf(r.text); ok && id >= 1 && id < 1000 {
			out = append(out, r)
		}
	}
	return lines(out)
}

// Locked returns the lines of shadow or gshadow without their passwords:
// nobody gets in by one.
func Locked(text []byte) []byte {
	rs := colonLines(text)
	for i, r := range rs {
		f := strings.Split(r.text, ":")
		if len(f) > 1 {
			f[1] = "!"
		}
		rs[i].text = strings.Join(f, ":")
	}
	return lines(rs)
}

// Only returns the lines whose first field is one of names.
func Only(text []byte, names []string) []byte {
	var out []record
	for _, r := range colonLines(text) {
		if slices.Contains(names, r.key) {
			out = append(out, r)
		}
	}
	return lines(out)
}

// Apart returns new numbers for the machine's own accounts whose number an
// account of new layers has: own is the machine's, old what the layers had
// before, layers what they have now, all the two merged. A person's account
// gets the next number from 1000 up, any other its place.
func Apart(own, old, layers, all Accounts) Accounts {
	var system []string
	out := Accounts{map[string]uint32{}, map[string]uint32{}}
	free := Accounts{maps.Clone(all.Users), maps.Clone(all.Groups)}
	for _, n := range slices.Sorted(maps.Keys(merge(own.Users, own.Groups))) {
		if !clashes(n, own.Users, old.Users, layers.Users) && !clashes(n, own.Groups, old.Groups, layers.Groups) {
			continue
		}
		delete(free.Users, n)
		delete(free.Groups, n)
		if id := max(own.Users[n], own.Groups[n]); id < 1000 {
			system = append(system, n)
			continue
		}
		id := uint32(1000)
		for taken(free, id) || taken(layers, id) {
			id++
		}
		out.Users[n], out.Groups[n] = id, id
		free.Users[n] = id
	}
	placed := Place(Accounts{merge(free.Users, layers.Users), merge(free.Groups, layers.Groups)}, system)
	maps.Copy(out.Users, placed.Users)
	maps.Copy(out.Groups, placed.Groups)
	return out
}

// clashes says whether the machine's own account n has the number of another
// account of the layers.
func clashes(n string, own, old, layers map[string]uint32) bool {
	id, have := own[n]
	if _, theirs := old[n]; !have || theirs {
		return false
	}
	if _, theirs := layers[n]; theirs {
		return false
	}
	for other, theirID := range layers {
		if theirID == id && other != n {
			return true
		}
	}
	return false
}

func taken(a Accounts, id uint32) bool {
	for _, m := range []map[string]uint32{a.Users, a.Groups} {
		for _, v := range m {
			if v == id {
				return true
			}
		}
	}
	return false
}

func merge(a, b map[string]uint32) map[string]uint32 {
	out := maps.Clone(a)
	if out == nil {
		out = map[string]uint32{}
	}
	maps.Copy(out, b)
	return out
}

// FreshSystem returns passwd, group, shadow and gshadow with the system
// accounts that full has and below lacks, after those of below: without
// passwords, comments and members other than these accounts. Accounts of
// persons, and changes of accounts that below has, stay out.
func FreshSystem(below, full Files) Files {
	out := Files{}
	var users []string
	for _, p := range []string{"etc/passwd", "etc/group"} {
		known := Names(below[p])
		var add, shadow []record
		for _, r := range colonLines(SystemAccounts(full[p])) {
			f := strings.Split(r.text, ":")
			if slices.Contains(known, r.key) || len(f) < 4 {
				continue
			}
			if p == "etc/passwd" && len(f) == 7 {
				f[1], f[4] = "x", ""
				users = append(users, r.key)
				shadow = append(shadow, record{r.key, r.key + ":!:::::::"})
			} else if p == "etc/group" {
				members := slices.DeleteFunc(strings.Split(f[3], ","), func(n string) bool { return !slices.Contains(users, n) })
				f[1], f[3] = "x", strings.Join(members, ",")
				shadow = append(shadow, record{r.key, r.key + ":!::"})
			}
			add = append(add, record{r.key, strings.Join(f, ":")})
		}
		if len(add) > 0 {
			s := map[string]string{"etc/passwd": "etc/shadow", "etc/group": "etc/gshadow"}[p]
			out[p] = append(slices.Clone(below[p]), lines(add)...)
			out[s] = append(slices.Clone(below[s]), lines(shadow)...)
		}
	}
	return out
}
