package floppy

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"gridappliance/credential"
	"gridappliance/internal/diag"
)

// CheckImage does everything a floppy is checked for: Open, then Check, but
// goes on after a problem, so that a person sees all of them at once. The
// Floppy is nil when there is a problem.
func CheckImage(name string, image []byte, now time.Time) (*Floppy, error) {
	f, problems := open(name, image)
	problems = append(problems, f.Check(now)...)
	if len(problems) > 0 {
		return nil, problems
	}
	return f, nil
}

// CheckFiles is CheckImage for files that are not on an image yet.
func CheckFiles(name string, files []File, now time.Time) (*Floppy, error) {
	f, problems := decode(name, files, nil)
	problems = append(problems, f.Check(now)...)
	if len(problems) > 0 {
		return nil, problems
	}
	return f, nil
}

// Check returns every problem in what the floppy means at the time now: the
// configuration by itself, the files its role needs, the credential from the
// grid's root down, and that the configuration chooses only what the
// credential allows.
//
// Revocation is not looked at: what a floppy can know of it is as old as the
// floppy.
func (f *Floppy) Check(now time.Time) diag.List {
	var problems diag.List
	if f.Config != nil {
		problems = append(f.Config.Validate(), f.checkFiles()...)
		if f.Config.Machine.Role == RoleStandalone {
			return problems
		}
	}
	identity, wrong := f.checkCredential(now)
	problems = append(problems, wrong...)
	if identity == nil {
		return problems
	}
	if f.Config != nil && f.Config.Machine.Role.inGrid() {
		problems = append(problems, f.checkWithin(identity)...)
		problems = append(problems, f.checkRoster(identity, now)...)
	}
	if f.DHCP != nil {
		problems = append(problems, f.DHCP.Check(identity.Descriptor)...)
	}
	return problems
}

// Identity returns the verified holder and descriptor, or nil for a role that
// needs no grid.
func (f *Floppy) Identity(now time.Time) (*credential.Identity, error) {
	if !f.Config.Machine.Role.inGrid() {
		return nil, nil
	}
	return credential.Open(f.Descriptor, f.HolderCert, f.HolderKey, now)
}

// inGrid reports whether the role needs a grid and so a credential.
func (r Role) inGrid() bool { return r == RoleWorker || r == RoleClient || r == RoleMaster }

// ApplyHolder fills in what a credential decides when the configuration
// leaves it out: group, user and, when there is only one, the namespace.
func (c *Config) ApplyHolder(h *credential.Holder) {
	setZero(&c.Condor.Group, h.Group)
	setZero(&c.Condor.User, h.User)
	if len(h.Namespaces) == 1 {
		setZero(&c.Network.Namespace, h.Namespaces[0])
	}
}

// checkShape returns what is wrong with the form of one file, whatever the
// others say. No message quotes a key.
func checkShape(name, at string, text []byte) diag.List {
	var err error
	switch name {
	case DescriptorFile:
		_, err = credential.ParseDescriptor(text)
	case HolderCertFile, IssuerCertFile:
		_, err = credential.ParseChain(text)
	case HolderKeyFile, NodeKeyFile, IssuerKeyFile:
		_, err = credential.ParseKey(text)
	case SSHKeysFile:
		return checkSSHKeys(at, text)
	}
	if err == nil {
		return nil
	}
	remedy := "copy the file from the floppy as it was issued"
	if inner := slices.Clone(diag.Of(err)); inner != nil {
		for i := range inner {
			inner[i].File, inner[i].Remedy = at, remedy
		}
		return inner
	}
	if isKey := bytes.Contains(text, []byte("PRIVATE KEY-----")); isKey != strings.HasSuffix(name, ".KEY") &&
		(isKey || bytes.Contains(text, []byte("BEGIN CERTIFICATE-----"))) {
		remedy = "have a certificate and its key changed places?"
	}
	return diag.List{{File: at, Message: err.Error(), Remedy: remedy}}
}

// checkSSHKeys reports the lines that are no public key. It shows none: a
// line may be part of a private key pasted by mistake.
func checkSSHKeys(at string, text []byte) diag.List {
	if bytes.Contains(text, []byte("PRIVATE KEY-----")) {
		return diag.List{{File: at, Message: "holds a private key", Remedy: "put the public key there, the file that ends in .pub; and make a new pair, since this one has been copied"}}
	}
	var problems diag.List
	for i, line := range bytes.Split(text, []byte("\n")) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		if _, _, _, _, err := ssh.ParseAuthorizedKey(line); err != nil {
			problems.Add(diag.Problem{File: at, Line: i + 1, Message: "is not an ssh public key", Remedy: "write one key a line, as in id_ed25519.pub"})
		}
	}
	return problems
}

// checkFiles returns which files the role lacks, and which it must not have.
func (f *Floppy) checkFiles() diag.List {
	role := f.Config.Machine.Role
	if !role.inGrid() {
		return nil
	}
	var problems diag.List
	for _, name := range []string{DescriptorFile, HolderCertFile, HolderKeyFile, NodeKeyFile, IssuerCertFile, IssuerKeyFile} {
		mastersOnly := name == NodeKeyFile || name == IssuerCertFile || name == IssuerKeyFile
		here := f.has(name)
		switch {
		case !here && (!mastersOnly || role == RoleMaster):
			problems.Add(diag.Problem{File: inFile(f.Name, name), Message: fmt.Sprintf("is missing: role %q needs it", role),
				Remedy: "make the floppy with builder " + map[bool]string{true: "grid new", false: "floppy new --grid"}[role == RoleMaster]})
		case here && mastersOnly && role != RoleMaster && name != NodeKeyFile: // checkRoster: a witness has a NODE.KEY
			problems.Add(diag.Problem{File: inFile(f.Name, name), Message: fmt.Sprintf("is a master's, but the role is %q", role),
				Remedy: "delete it; keep it with the master's floppy only"})
		}
	}
	return problems
}

// has reports whether the floppy came with a file, readable or not.
func (f *Floppy) has(name string) bool {
	return slices.Contains(f.damaged, name) || slices.ContainsFunc(f.files, func(file File) bool { return file.Name == name })
}

// checkCredential verifies descriptor, holder and key. The identity is nil
// when it does not hold, or when a file of it is missing or has no shape,
// which has been reported.
func (f *Floppy) checkCredential(now time.Time) (*credential.Identity, diag.List) {
	if f.Descriptor == nil || f.HolderCert == nil || f.HolderKey == nil {
		return nil, nil
	}
	if d, err := credential.ParseDescriptor(f.Descriptor); err == nil {
		if err := d.Verify(nil, now); err != nil {
			return nil, diag.List{credentialProblem(inFile(f.Name, DescriptorFile), err)}
		}
	}
	identity, err := credential.Open(f.Descriptor, f.HolderCert, f.HolderKey, now)
	if err != nil {
		file := HolderCertFile
		if errors.Is(err, credential.ErrKey) {
			file = HolderKeyFile
		}
		return nil, diag.List{credentialProblem(inFile(f.Name, file), err)}
	}
	return identity, nil
}

// credentialProblem turns a refusal of package credential into a problem with
// a remedy.
func credentialProblem(file string, err error) diag.Problem {
	p := diag.Problem{File: file, Message: err.Error()}
	for _, r := range []struct {
		err    error
		remedy string
	}{
		{credential.ErrExpired, "ask who runs the grid for a new floppy; if the date is wrong, set the clock"},
		{credential.ErrNotYetValid, "set the clock: the floppy was made later"},
		{credential.ErrWrongGrid, "take descriptor and credential from one floppy"},
		{credential.ErrKey, "take certificate and key from one floppy"},
		{credential.ErrSignature, "take every file from the floppy as it was issued; if it is, it was tampered with"},
		{credential.ErrRoster, "the grid's roster has changed: ask who runs the grid for a new floppy"},
	} {
		if errors.Is(err, r.err) {
			p.Remedy = r.remedy
			return p
		}
	}
	p.Remedy = "ask who runs the grid for a new floppy"
	return p
}

// checkWithin returns everything the configuration chooses that the holder's
// credential does not allow. Each problem names both.
func (f *Floppy) checkWithin(identity *credential.Identity) diag.List {
	c, h := f.Config, identity.Holder
	var problems diag.List
	refuse := func(path, message, remedy string) {
		if !c.wrong[path] {
			problems.Add(c.problem(path, message, remedy))
		}
	}
	if role := credential.Role(c.Machine.Role); !slices.Contains(h.Roles, role) {
		refuse("machine.role", fmt.Sprintf("is %q, but the credential of %s allows %s", role, h.User, quotedList(h.Roles)), "choose one of these, or ask for a floppy with this role")
	}
	if g := c.Condor.Group; g != "" && g != h.Group {
		refuse("condor.group", fmt.Sprintf("is %q, but the credential is for group %q", g, h.Group), "delete the key")
	}
	if u := c.Condor.User; u != "" && u != h.User {
		refuse("condor.user", fmt.Sprintf("is %q, but the credential is for user %q", u, h.User), "delete the key")
	}
	switch n := c.Network.Namespace; {
	case n == "" && len(h.Namespaces) > 1:
		refuse("network.namespace", "is missing: the credential allows "+quotedList(h.Namespaces), `write namespace = "`+h.Namespaces[0]+`" or another of them below [network]`)
	case n != "" && !slices.Contains(h.Namespaces, n):
		refuse("network.namespace", fmt.Sprintf("is %q, but the credential allows %s", n, quotedList(h.Namespaces)), "choose one of these, or delete the key")
	}
	if c.Network.Mode == ModeRouter && !h.Rights.Router {
		refuse("network.mode", fmt.Sprintf(`is "router", but the credential of %s has no right "router"`, h.User), `write mode = "host", or ask for a floppy with this right`)
	}
	for _, list := range []struct {
		path  string
		names []string
	}{{"condor.masters", c.Condor.Masters.Names}, {"condor.flock", c.Condor.Flock.Names}} {
		for _, name := range list.names {
			if roster := masterNames(identity.Descriptor); hostNamePattern.MatchString(name) && !slices.Contains(roster, name) {
				refuse(list.path, fmt.Sprintf("%q is no master: the grid's descriptor has %s", name, quotedList(roster)), diag.DidYouMean(name, roster, "choose one of these"))
			}
		}
	}
	return problems
}

// masterNames returns the host names of the roster's masters.
func masterNames(d *credential.Descriptor) []string {
	var names []string
	for _, m := range d.Masters {
		names = append(names, credential.HostName(m.Address))
	}
	return names
}

// quotedList returns "a", "b" in quotes.
func quotedList[T ~string](list []T) string {
	quotes := make([]string, len(list))
	for i, s := range list {
		quotes[i] = fmt.Sprintf("%q", string(s))
	}
	return strings.Join(quotes, ", ")
}

// checkRoster holds a master's or witness's fixed identity against the roster,
// and a master's issuer against the root that HTCondor trusts.
func (f *Floppy) checkRoster(identity *credential.Identity, now time.Time) diag.List {
	d, user, isMaster := identity.Descriptor, identity.Holder.User, f.Config.Machine.Role == RoleMaster
	var problems diag.List
	if key, err := credential.ParseKey(f.NodeKey); err == nil { // else missing, or reported by checkShape
		id := credential.NodeIDOf(&key.PublicKey)
		listed := slices.ContainsFunc(d.Masters, func(m credential.Master) bool { return m.ID == id && m.Name == user })
		if !isMaster {
			listed = slices.ContainsFunc(d.Witnesses, func(w credential.Witness) bool { return w.ID == id && w.Name == user })
		}
		if !listed {
			problems.Add(diag.Problem{File: inFile(f.Name, NodeKeyFile), Message: fmt.Sprintf("is not the key of %s in the grid's roster", user),
				Remedy: "take every file from one floppy; only masters and witnesses have this one"})
		}
	}
	if !isMaster || f.IssuerCert == nil || f.IssuerKey == nil {
		return problems
	}
	if err := checkIssuer(d, f.IssuerCert, f.IssuerKey, now); err != nil {
		p := credentialProblem(inFile(f.Name, IssuerCertFile), err)
		if errors.Is(err, credential.ErrKey) {
			p.File = inFile(f.Name, IssuerKeyFile)
		}
		problems.Add(p)
	}
	return problems
}

// checkIssuer verifies a master's issuer of HTCondor credentials: signed by
// the root that the descriptor names for HTCondor, good at now, and the key is
// the certificate's.
func checkIssuer(d *credential.Descriptor, certPEM, keyPEM []byte, now time.Time) error {
	chain, err := credential.ParseChain(certPEM)
	if err != nil {
		return err
	}
	cert, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return err
	}
	root, err := x509.ParseCertificate(d.CondorRoot)
	if err != nil {
		return err
	}
	key, err := credential.ParseKey(keyPEM)
	if err != nil {
		return err
	}
	day := func(t time.Time) string { return t.UTC().Format(time.DateOnly) }
	switch {
	case cert.CheckSignatureFrom(root) != nil:
		return fmt.Errorf("HTCondor issuer: %w: not by the HTCondor root of grid %s", credential.ErrSignature, d.Grid)
	case now.Before(cert.NotBefore):
		return fmt.Errorf("HTCondor issuer: %w: begins %s, it is %s", credential.ErrNotYetValid, day(cert.NotBefore), day(now))
	case now.After(cert.NotAfter):
		return fmt.Errorf("HTCondor issuer: %w: ended %s, it is %s", credential.ErrExpired, day(cert.NotAfter), day(now))
	case !key.PublicKey.Equal(cert.PublicKey):
		return fmt.Errorf("HTCondor issuer: %w", credential.ErrKey)
	}
	return nil
}
