package layer

import (
	"bytes"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"gridappliance/builder/squashfs"
	"gridappliance/internal/compose"
	"gridappliance/internal/diag"
)

// Changes is what a machine changed.
type Changes struct {
	Entries []*squashfs.Entry // of the user layer's changes/
	Below   compose.Files     // the shared files of the layers under it
	Managed map[string]bool   // paths that firstboot made from the floppy
}

// Choice is one file of the changes and whether it goes into a module.
type Choice struct {
	Entry  *squashfs.Entry
	Reason string // why it stays; "" when it is taken
	Never  bool   // it stays even when named
}

// roots are the folders that a module is taken from.
var roots = []string{"etc", "opt", "srv", "usr", "var/lib/dpkg/info"}

// Choose says of every file of the changes whether it may leave the machine:
// those below roots and the paths of include, but no identity, and nothing
// set-uid or like a credential unless include names it itself. A path of
// include that must not leave, or is not there, is an error.
func Choose(c *Changes, include []string) ([]Choice, error) {
	named := map[string]bool{}
	for i, p := range include {
		include[i] = strings.TrimPrefix(path.Clean("/"+p), "/")
		named[include[i]] = true
	}
	var out []Choice
	stays := map[string]Choice{}
	for _, e := range c.Entries {
		if e.Path == "." || compose.Shared(e.Path) || leftOut(e.Path) && !never(e.Path) {
			continue
		}
		ch := Choice{Entry: e, Never: never(e.Path)}
		switch {
		case ch.Never:
			ch.Reason = "is this machine's own, never shared"
		case c.Managed[e.Path] || managed(e.Path):
			ch.Reason, ch.Never = "is made from the floppy", true
		case !below(e.Path, roots) && !below(e.Path, include):
			ch.Reason = "lies outside " + strings.Join(rootNames(), ", ")
		case e.Link != "":
			if first, ok := stays[e.Link]; ok {
				ch.Reason, ch.Never = first.Reason, first.Never
			}
		case !named[e.Path]:
			var err error
			if ch.Reason, err = suspicious(e); err != nil {
				return nil, err
			}
		}
		if ch.Reason != "" {
			stays[e.Path] = ch
		}
		out = append(out, ch)
	}
	return out, checkNamed(c, include, stays)
}

func checkNamed(c *Changes, include []string, stays map[string]Choice) error {
	var problems diag.List
	for _, p := range include {
		there := slices.ContainsFunc(c.Entries, func(e *squashfs.Entry) bool { return e.Path == p })
		switch ch, left := stays[p]; {
		case never(p) || left && ch.Never:
			problems.Add(diag.Problem{File: "/" + p, Message: "belongs to this machine alone and is never exported", Remedy: "leave it out"})
		case !there:
			problems.Add(diag.Problem{File: "/" + p, Message: "is not among what this machine changed", Remedy: "correct the path"})
		}
	}
	return problems.Err()
}

func rootNames() []string {
	var out []string
	for _, r := range roots {
		out = append(out, "/"+r)
	}
	return out
}

// below says whether p is one of folders or lies in it.
func below(p string, folders []string) bool {
	return slices.ContainsFunc(folders, func(f string) bool { return p == f || strings.HasPrefix(p, f+"/") })
}

// neverPaths are the machine's identity and its accounts, with all below.
var neverPaths = []string{"etc/passwd", "etc/passwd-", "etc/group", "etc/group-", "etc/shadow", "etc/shadow-", "etc/gshadow", "etc/gshadow-",
	"etc/subuid", "etc/subuid-", "etc/subgid", "etc/subgid-", "etc/machine-id", "etc/hostname", "etc/hosts", "etc/resolv.conf",
	"etc/condor/grid", "etc/condor/passwords.d", "etc/condor/tokens.d", "etc/ssh/keys", "etc/grid", "etc/security/opasswd",
	"var/lib/grid", "var/lib/overlayd", "var/lib/condor", "var/lib/systemd", "home", "root", "mnt"}

func never(p string) bool {
	return below(p, neverPaths) || strings.HasPrefix(p, "etc/ssh/ssh_host_")
}

// managed says whether firstboot and condorconf write a path.
func managed(p string) bool {
	ok, _ := regexp.MatchString(`^etc/(condor/config\.d/\d\d-grid-.*|nftables\.d/grid.*|auto\.master\.d/ganfs.*|auto\.ganfs|exports\.d/grid.*|nfs\.conf\.d/grid.*|localtime|timezone|systemd/network/[^/]*grid.*|ssh/sshd_config\.d/grid.*)$`, p)
	return ok
}

// Names and contents that are like a credential's. A false alarm costs one
// --include, a miss costs a key: so they are wide.
var (
	secretName = regexp.MustCompile(`(?i)(^|/)(id_(rsa|dsa|ecdsa|ed25519)|\.?netrc|\.pgpass|\.git-credentials|\.htpasswd|htpasswd|credentials?(\.[a-z]+)?|secrets?(\.[a-z]+)?|[^/]*\.(key|p12|pfx|jks|keytab|kdbx|gpg-agent|ovpn)|[^/]*(passwd|password|token|secret|private[-_.]?key)[^/]*)$`)
	secretText = regexp.MustCompile(`-----BEGIN [A-Z0-9 ]*PRIVATE KEY|(?i)(password|passwd|passphrase|secret|api[-_]?key|access[-_]?key|auth[-_]?token)["']?\s*[:=]\s*["']?[^\s"'$<{%]{4,}|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{30,}|\bxox[baprs]-[A-Za-z0-9-]{10,}`)
)

// scanLimit is how much of a file is looked at for what is like a credential;
// textLimit how large a file in which passwords are looked for as words.
const (
	scanLimit = 1 << 20
	textLimit = 256 << 10
)

// suspicious returns why a file stays unless it is named, or "".
func suspicious(e *squashfs.Entry) (string, error) {
	if e.Type() != squashfs.Regular {
		return "", nil
	}
	switch {
	case e.Mode&0o6000 != 0:
		return "runs with another's rights (set-uid or set-gid)", nil
	case e.Xattrs["security.capability"] != "":
		return "runs with capabilities", nil
	case below(e.Path, []string{"etc"}) && e.Mode&0o004 == 0:
		return "is not for everybody to read", nil
	case secretName.MatchString(e.Path) && !below(e.Path, []string{"usr/share", "usr/lib", "usr/include", "usr/bin", "usr/sbin", "var/lib/dpkg/info"}):
		return "has the name of a credential", nil
	}
	r, err := e.Open()
	if err != nil {
		return "", fmt.Errorf("read /%s: %w", e.Path, err)
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, scanLimit))
	if err != nil {
		return "", fmt.Errorf("read /%s: %w", e.Path, err)
	}
	if bytes.Contains(b, []byte("PRIVATE KEY-----")) && bytes.Contains(b, []byte("-----BEGIN")) && !bytes.Contains(b[:min(len(b), 4)], []byte("\x7fELF")) {
		return "holds a private key", nil
	}
	if below(e.Path, []string{"etc", "srv", "opt", "usr/local"}) && e.Size < textLimit && !bytes.Contains(b, []byte{0}) && secretText.Match(b) {
		return "holds what is like a password or token", nil
	}
	return "", nil
}

// Export returns what Pack makes a module of: the entries that are taken,
// directories only where something in them is, and of shared files what
// packages added. Accounts are those of the system that the machine made, their
// names alone: no password, no member.
func Export(c *Changes, choices []Choice) []*squashfs.Entry {
	needed := map[string]bool{}
	var out []*squashfs.Entry
	for _, ch := range choices {
		if ch.Reason != "" || ch.Entry.Type() == squashfs.Dir && ch.Entry.Link == "" && ch.Entry.Xattrs[squashfs.OpaqueXattr] == "" {
			continue
		}
		out = append(out, ch.Entry)
		for d := path.Dir(ch.Entry.Path); d != "."; d = path.Dir(d) {
			needed[d] = true
		}
	}
	for _, e := range c.Entries {
		if e.Type() == squashfs.Dir && e.Link == "" && needed[e.Path] && e.Xattrs[squashfs.OpaqueXattr] == "" {
			out = append(out, e)
		}
	}
	return append(out, sharedEntries(c)...)
}

// sharedEntries returns the shared files as a module may have them.
func sharedEntries(c *Changes) []*squashfs.Entry {
	var out []*squashfs.Entry
	full := compose.Files{}
	for _, e := range c.Entries {
		if !compose.Shared(e.Path) || e.Type() != squashfs.Regular {
			continue
		}
		if b, err := content(e); err == nil {
			full[e.Path] = b
		}
		if !below(e.Path, []string{"etc"}) || e.Path == "etc/shells" || e.Path == "etc/ld.so.cache" {
			out = append(out, e)
		}
	}
	for p, text := range compose.FreshSystem(c.Below, full) {
		out = append(out, fileEntry(p, text, time.Time{}))
	}
	return out
}
