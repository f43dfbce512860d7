package base

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"gridappliance/internal/sysrun"
)

// Archive is a source of packages beside Debian's, with the key that signs it.
type Archive struct {
	Name       string   // for messages and the image's files
	URIs       []string // roots of mirrors: http, https, file
	Suites     []string // below URI/dists, or a folder ending in "/"
	Components []string
	Key        []byte // OpenPGP public key, armoured or not
	KeyName    string // its file, for messages
}

const armour = "-----BEGIN PGP PUBLIC KEY BLOCK-----"

// CheckKey says what is wrong with a file that should be an OpenPGP public
// key (RFC 9580 §4.2, §6.2), or nil.
func CheckKey(key []byte) error {
	switch {
	case bytes.Contains(key, []byte("-----BEGIN PGP PRIVATE KEY BLOCK-----")), len(key) > 0 && (key[0] == 0x95 || key[0] == 0xc5):
		return errors.New("it is a private key: use what gpg --export prints")
	case bytes.Contains(key, []byte(armour)), len(key) > 0 && (key[0] == 0x98 || key[0] == 0x99 || key[0] == 0xc6):
		return nil
	}
	return errors.New("it is no OpenPGP public key")
}

// keyFile returns the name of the archive's key file: apt tells the two forms
// apart by it.
func (r *Archive) keyFile() string {
	if bytes.Contains(r.Key, []byte(armour)) {
		return r.Name + ".asc"
	}
	return r.Name + ".gpg"
}

// useArchives adds archives, each with its own key, and reads their lists.
func (a *apt) useArchives(ctx context.Context, archives []Archive) error {
	list := filepath.Join(a.dir, "sources.list")
	debian, err := os.ReadFile(list)
	if err != nil {
		return err
	}
	all := bytes.NewBuffer(debian)
	for _, r := range archives {
		key := filepath.Join(a.dir, r.keyFile())
		if err := os.WriteFile(key, r.Key, 0o644); err != nil {
			return err
		}
		var lines strings.Builder
		for _, uri := range r.URIs {
			if path, ok := strings.CutPrefix(uri, "file:"); ok {
				uri = "copy:/" + strings.TrimLeft(path, "/") // as apt writes it in its answers
			}
			uri = strings.TrimRight(uri, "/")
			a.named[uri] = r.Name
			for _, suite := range r.Suites {
				a.sources = append(a.sources, source{URI: uri, Suite: suite, Components: r.Components})
				fmt.Fprintf(&lines, "deb [arch=amd64 signed-by=%s] %s %s %s\n", key, uri, suite, strings.Join(r.Components, " "))
			}
		}
		alone := filepath.Join(a.dir, r.Name+".list")
		if err := os.WriteFile(alone, []byte(lines.String()), 0o644); err != nil {
			return err
		}
		if _, err := a.run(ctx, "apt-get", "-q", "update", "--error-on=any", "-o", "Dir::Etc::SourceList="+alone,
			"-o", "APT::Get::List-Cleanup=0"); err != nil {
			return r.refusal(err)
		}
		all.WriteString(lines.String())
	}
	return os.WriteFile(list, all.Bytes(), 0o644)
}

var otherKey = regexp.MustCompile(`NO_PUBKEY ([0-9A-F]+)`)

// refusal says in a line why apt took nothing from an archive.
func (r *Archive) refusal(err error) error {
	var said *sysrun.Error
	if !errors.As(err, &said) {
		return err
	}
	text := said.Stderr
	why := ""
	switch m := otherKey.FindStringSubmatch(text); {
	case m != nil:
		why = "it is signed by the key " + m[1] + ", which " + r.KeyName + " does not hold"
	case strings.Contains(text, "EXPKEYSIG"):
		why = "the key in " + r.KeyName + " has expired"
	case strings.Contains(text, "BADSIG"):
		why = "its signature is not that of what it serves: it was changed on the way"
	case strings.Contains(text, "does not have a Release file"):
		why = "there is no signed list of packages (InRelease or Release.gpg)"
	case strings.Contains(text, "is not signed"), strings.Contains(text, "signed-by"):
		why = "it is not signed by " + r.KeyName
	default:
		return fmt.Errorf("read source %s: %w", r.Name, err)
	}
	return fmt.Errorf("read source %s (%s): %s; nothing was taken from it", r.Name, strings.Join(r.URIs, ", "), why)
}
