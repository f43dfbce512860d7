package discover

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

// maxRemembered bounds the peers in the file. Implementation.
const maxRemembered = 32

// memory is the peers that this node has had a direct path to, the newest
// first.
type memory struct{ peers []remembered }

type remembered struct {
	contact wire.Contact
	seen    time.Time
}

// fileForm is the file's form.
type fileForm struct {
	Version int        `json:"version"`
	Peers   []peerForm `json:"peers"`
}

type peerForm struct {
	ID        string           `json:"id"`
	Holder    string           `json:"holder"`
	Endpoints []netip.AddrPort `json:"endpoints"`
	Seen      time.Time        `json:"seen"`
}

// add puts a peer first.
func (m *memory) add(c wire.Contact, now time.Time) {
	m.peers = slices.DeleteFunc(m.peers, func(r remembered) bool { return r.contact.ID == c.ID })
	m.peers = slices.Insert(m.peers, 0, remembered{c, now})
	m.peers = m.peers[:min(len(m.peers), maxRemembered)]
}

// encode returns the file's content.
func (m *memory) encode() []byte {
	f := fileForm{Version: 1, Peers: []peerForm{}}
	for _, r := range m.peers {
		f.Peers = append(f.Peers, peerForm{r.contact.ID.String(), hex.EncodeToString(r.contact.Holder[:]), r.contact.Endpoints, r.seen.UTC().Round(time.Second)})
	}
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		panic("discover: encode peers: " + err.Error()) // every field has a form
	}
	return append(b, '\n')
}

// decodeMemory reads a file's content. Nothing in it is trusted, so what is
// strange is an error and not repaired.
func decodeMemory(b []byte) (memory, error) {
	var f fileForm
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return memory{}, err
	}
	if f.Version != 1 || len(f.Peers) > maxRemembered {
		return memory{}, fmt.Errorf("version %d with %d peers, want version 1 with at most %d", f.Version, len(f.Peers), maxRemembered)
	}
	var m memory
	for _, p := range f.Peers {
		id, err := nodeid.Parse(p.ID)
		if err != nil {
			return memory{}, err
		}
		holder, err := hex.DecodeString(p.Holder)
		if err != nil || len(holder) != len(wire.Holder{}) {
			return memory{}, fmt.Errorf("holder %q: want %d bytes in hexadecimal", p.Holder, len(wire.Holder{}))
		}
		if len(p.Endpoints) > wire.MaxEndpoints || slices.ContainsFunc(p.Endpoints, func(e netip.AddrPort) bool { return !e.IsValid() || e.Addr().Zone() != "" }) {
			return memory{}, fmt.Errorf("peer %s: want at most %d endpoints without zone", p.ID, wire.MaxEndpoints)
		}
		m.peers = append(m.peers, remembered{wire.Contact{ID: id, Holder: wire.Holder(holder), Endpoints: p.Endpoints}, p.Seen})
	}
	return m, nil
}
