package plan

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	"gridappliance/floppy"
	"gridappliance/internal/diag"
)

// Numbers of accounts that floppies name. Debian gives accounts made by hand
// numbers from 1000 on (Debian policy §9.2.2), so that these start well above.
const (
	FirstUID = 10000
	LastUID  = 59999
)

// Floppy says whether uid is one of those that floppies' accounts get.
func Floppy(uid int) bool { return uid >= FirstUID && uid <= LastUID }

// makeUsers returns the accounts for names. A name has the same number on
// every machine, whatever other names stand beside it (unless two meet: then
// the later in the alphabet moves on), so that files keep their owner over
// floppies and shared folders. A name that the image uses already is refused.
func makeUsers(names []string, accounts map[string]int) ([]User, diag.List) {
	var (
		users    []User
		problems diag.List
		taken    = map[int]bool{}
	)
	for name, uid := range accounts {
		if !slices.Contains(names, name) {
			taken[uid] = !Floppy(uid)
		}
	}
	for _, name := range slices.Sorted(slices.Values(names)) {
		if uid, ok := accounts[name]; ok && !Floppy(uid) {
			problems.Add(diag.Problem{File: floppy.ConfigFile, Path: "users.names",
				Message: fmt.Sprintf("the image has an account %s already", name), Remedy: "choose another name"})
			continue
		}
		uid := numberOf(name)
		for taken[uid] {
			uid = FirstUID + (uid-FirstUID+1)%(LastUID-FirstUID+1)
		}
		taken[uid] = true
		users = append(users, User{Name: name, UID: uid, Home: "/home/" + name})
	}
	return users, problems
}

// numberOf returns the uid that name gets when nobody else has it.
func numberOf(name string) int {
	h := fnv.New32a()
	h.Write([]byte(name))
	return FirstUID + int(h.Sum32()%(LastUID-FirstUID+1))
}

// jobAccounts returns the numbers of the accounts that jobs run in: slot1,
// slot2, ... of the image.
func jobAccounts(accounts map[string]int) []int {
	var uids []int
	for name, uid := range accounts {
		digits, ok := strings.CutPrefix(name, "slot")
		if ok && digits != "" && strings.Trim(digits, "0123456789") == "" {
			uids = append(uids, uid)
		}
	}
	slices.Sort(uids)
	return uids
}

// jobAccounts is the same of the accounts that the plan makes.
func (p *Plan) jobAccounts() []int {
	accounts := map[string]int{}
	for _, u := range p.Users {
		accounts[u.Name] = u.UID
	}
	return jobAccounts(accounts)
}
