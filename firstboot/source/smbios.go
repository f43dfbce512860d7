package source

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
)

// maxTable bounds the SMBIOS structure table, in bytes; its 64-bit entry point
// allows more, no firmware uses it.
const maxTable = 4 << 20

// readSMBIOS returns the credential among the machine's OEM strings.
func readSMBIOS(_ context.Context, m Machine) ([]byte, error) {
	table, err := readStart(filepath.Join(m.Root, "sys/firmware/dmi/tables/DMI"), maxTable, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, s := range oemStrings(table) {
		if v, ok := strings.CutPrefix(s, "io.systemd.credential:"+credentialName+"="); ok {
			return []byte(v), nil
		}
		if v, ok := strings.CutPrefix(s, "io.systemd.credential.binary:"+credentialName+"="); ok {
			b, err := base64.StdEncoding.DecodeString(v)
			if err != nil {
				return nil, fmt.Errorf("OEM string: %w", err)
			}
			return b, nil
		}
	}
	return nil, nil
}

// oemStrings returns the strings of every structure of type 11 in an SMBIOS
// structure table (DSP0134 §6.1.2, §7.12), in order. A structure is
//
//	offset size field
//	0      1    type
//	1      1    length of the formatted area, header included, at least 4
//	2      2    handle
//	4      ..   formatted area
//	length ..   strings, each ended by a zero byte, the set by one more;
//	            two zero bytes when there are none
//
// A table that ends in the middle of a structure yields what came before it.
func oemStrings(table []byte) []string {
	const (
		typeOEM = 11
		typeEnd = 127
	)
	var found []string
	for len(table) >= 4 && table[0] != typeEnd {
		length := int(table[1])
		if length < 4 || length > len(table) {
			break
		}
		end := bytes.Index(table[length:], []byte{0, 0})
		if end < 0 {
			break
		}
		set := table[length : length+end]
		if table[0] == typeOEM && len(set) > 0 {
			found = append(found, strings.Split(string(set), "\x00")...)
		}
		table = table[length+end+2:]
	}
	return found
}
