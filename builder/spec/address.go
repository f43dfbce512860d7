package spec

import (
	"path/filepath"
	"regexp"
	"strings"
)

// Address says where something comes from and, after "?checksum=sha256:", what
// it must be: go-getter's form. The place is a URL (http, https), a path, or
// for a base the beginning of an id in the store.
type Address string

const checksumParameter = "?checksum=sha256:"

var (
	sha256Form = regexp.MustCompile(`^[0-9a-f]{64}$`)
	idForm     = regexp.MustCompile(`^[0-9a-f]{8,32}$`)
	urlForm    = regexp.MustCompile(`^[a-z][a-z0-9+.-]*::?//`)
)

// Place returns the address without its checksum.
func (a Address) Place() string {
	place, _, _ := strings.Cut(string(a), checksumParameter)
	return place
}

// SHA256 returns the checksum as 64 hex digits, or "" when there is none.
func (a Address) SHA256() string {
	_, sum, _ := strings.Cut(string(a), checksumParameter)
	return sum
}

// IsURL says whether the place is on a server.
func (a Address) IsURL() bool { return urlForm.MatchString(string(a)) }

// IsID says whether the place is the beginning of a base's id: 8 to 32 hex
// digits. A folder of such a name is written with "./" before it.
func (a Address) IsID() bool { return idForm.MatchString(a.Place()) }

func (a Address) resolve(dir string) Address {
	if a == "" || a.IsURL() || a.IsID() || filepath.IsAbs(a.Place()) {
		return a
	}
	place, rest, found := strings.Cut(string(a), "?")
	if found {
		rest = "?" + rest
	}
	return Address(filepath.Join(dir, place) + rest)
}

// problem says what is wrong with the form of an address, or "".
func (a Address) problem(checksum bool) (message, remedy string) {
	place, query, _ := strings.Cut(string(a), "?")
	switch {
	case place == "":
		return "names nothing", "write a path or URL"
	case query == "" && checksum:
		return "has no checksum", "end it in " + checksumParameter + " and the 64 hex digits that sha256sum prints"
	case query != "" && !(strings.HasPrefix("?"+query, checksumParameter) && sha256Form.MatchString(a.SHA256())):
		return "does not end in " + checksumParameter + " and 64 hex digits", "copy them from what sha256sum prints"
	case a.IsURL() && !strings.HasPrefix(place, "https://") && !strings.HasPrefix(place, "http://"):
		return "is neither http nor https", "use http, https or a path"
	}
	return "", ""
}
