package control

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"gridappliance/overlayd/nodeid"
)

// RecordKinds are the kinds of records in the grid's store. A name follows
// each but the last three.
var RecordKinds = []string{"locator", "name", "service", "route", "masters", "descriptor", "revocations"}

// RecordName is what a record is found by, in this node's namespace. Its text
// is the kind, or the kind, a slash and the name: service/collector.
type RecordName struct{ Kind, Name string }

// ParseRecordName reads the text.
func ParseRecordName(text string) (RecordName, error) {
	kind, name, named := strings.Cut(text, "/")
	i := slices.Index(RecordKinds, kind)
	if i < 0 {
		return RecordName{}, fmt.Errorf("record %q: want KIND or KIND/NAME, KIND being one of %s", text, strings.Join(RecordKinds, ", "))
	}
	if wants := i < slices.Index(RecordKinds, "masters"); named != wants || named && name == "" {
		if wants {
			return RecordName{}, fmt.Errorf("record %q: want %s/NAME", text, kind)
		}
		return RecordName{}, fmt.Errorf("record %q: %s has no name", text, kind)
	}
	return RecordName{kind, name}, nil
}

func (n RecordName) String() string {
	if n.Name == "" {
		return n.Kind
	}
	return n.Kind + "/" + n.Name
}

// MarshalText returns the text.
func (n RecordName) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// UnmarshalText is ParseRecordName.
func (n *RecordName) UnmarshalText(text []byte) (err error) {
	*n, err = ParseRecordName(string(text))
	return err
}

// Record is what one node says under a name for a while. Its signature and its
// owner's right to it have been verified.
type Record struct {
	Name     RecordName `json:"record"`
	Owner    string     `json:"owner"` // node ID
	User     string     `json:"user,omitempty"`
	Role     string     `json:"role,omitempty"`
	Signed   time.Time  `json:"signed"` // by the owner's clock
	Lifetime int        `json:"lifetime_s"`
	Value    []byte     `json:"value"` // base64 in JSON
}

// Stored says what became of a Put or Withdraw.
type Stored struct {
	Copies int `json:"copies"` // nodes that confirmed it
}

// Key is a place on the ring: a key itself or, with a Record, where that
// record is kept.
type Key struct {
	ID     nodeid.ID
	Record RecordName
}

// ParseKey reads 32 hex digits or a record's name.
func ParseKey(text string) (Key, error) {
	if strings.Contains(text, "/") || slices.Contains(RecordKinds, text) {
		name, err := ParseRecordName(text)
		return Key{Record: name}, err
	}
	id, err := nodeid.Parse(text)
	if err != nil {
		return Key{}, fmt.Errorf("key %q: want 32 lower-case hex digits, or a record as in service/collector", text)
	}
	return Key{ID: id}, nil
}

func (k Key) String() string {
	if k.Record != (RecordName{}) {
		return k.Record.String()
	}
	return k.ID.String()
}

// Found is the member of the ring that is nearest to a key.
type Found struct {
	Key    nodeid.ID `json:"key"`
	NodeID string    `json:"node"`
	Hops   int       `json:"hops"` // that the answer took
	Took   Millis    `json:"took_ms"`
}

// Crawled is one member of the ring, as a crawl came by.
type Crawled struct {
	NodeID      string `json:"node"`
	Hops        int    `json:"hops"`
	Took        Millis `json:"took_ms"`
	Successor   string `json:"successor"`   // that it names
	Predecessor string `json:"predecessor"` // that it names
	Consistent  bool   `json:"consistent"`  // the member before it names it as successor, and it that as predecessor
}
