package squashfs

import (
	"errors"
)

// Reown returns what to write where, so that files of each user and group
// that the maps name belong to another. Ids that the maps do not name stay.
func (im *Image) Reown(users, groups map[uint32]uint32) (offset int64, data []byte, err error) {
	want := make(map[uint16]uint32)
	for _, e := range append([]*Entry{im.byPath["."]}, im.entries...) {
		o, ok := im.owners[e]
		if !ok || e.Link != "" {
			continue
		}
		for i, to := range []map[uint32]uint32{users, groups} {
			id := im.ids[o[i]]
			if n, ok := to[id]; ok {
				id = n
			}
			if old, ok := want[o[i]]; ok && old != id {
				return 0, nil, errors.New("user and group of one number cannot be given different ones: pack it with builder module pack")
			}
			want[o[i]] = id
		}
	}
	data = make([]byte, 4*len(im.ids))
	changed := false
	for i, id := range im.ids {
		n, ok := want[uint16(i)]
		if !ok {
			n = id
		}
		changed = changed || n != id
		le.PutUint32(data[4*i:], n)
	}
	if !changed {
		return 0, nil, nil
	}
	if im.idAt == 0 {
		return 0, nil, errors.New("its table of owners is compressed: pack it with builder module pack")
	}
	return im.idAt, data, nil
}
