package node

import (
	"reflect"
	"strings"
	"unicode"

	"gridappliance/overlayd/session"
)

// protocolCounters adds what the machines have counted: "link/checks".
func (n *Node) protocolCounters(m map[string]uint64) {
	c := n.core.GridCounters()
	addCounters(m, "core", n.core.Counters())
	addCounters(m, "link", n.links.Counters())
	addCounters(m, "store", c.Store)
	addCounters(m, "gossip", c.Gossip)
	c.Holder.Each(func(name string, k uint64) { m["lease/"+name] = k })
	c.Witness.Each(func(name string, k uint64) { m["witness/"+name] = k })
	s := n.links.Sessions()
	addCounters(m, "session", s)
	for d, k := range s.Drops {
		m["drop/session-"+session.Drop(d).String()] = k
	}
}

// addCounters adds the numbers of a struct under its fields' names in kebab
// case.
func addCounters(m map[string]uint64, prefix string, counters any) {
	v := reflect.ValueOf(counters)
	for i := range v.NumField() {
		if v.Field(i).Kind() == reflect.Uint64 {
			m[prefix+"/"+kebab(v.Type().Field(i).Name)] = v.Field(i).Uint()
		}
	}
}

func kebab(name string) string {
	var b strings.Builder
	for i, r := range name {
		if unicode.IsUpper(r) && i > 0 {
			b.WriteByte('-')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}
