package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"gridappliance/builder/base"
	"gridappliance/builder/layer"
	"gridappliance/builder/spec"
	"gridappliance/builder/squashfs"
	"gridappliance/internal/compose"
	"gridappliance/internal/diag"
)

// filesModule is the name of the module that a definition's files make.
const filesModule = "site-files"

// checkFiles returns what is wrong with the sources of the definition's files.
func (im *image) checkFiles() diag.List {
	var problems diag.List
	for i, f := range im.def.Files {
		add := func(key, message, remedy string) {
			problems.Add(im.problem(fmt.Sprintf("files[%d].%s", i, key), message, remedy))
		}
		if f.Source == "" {
			continue // reported by Validate
		}
		info, err := os.Stat(f.Source)
		switch {
		case err != nil:
			add("source", because(f.Source, err), "correct the path; it is relative to the definition")
			continue
		case !info.Mode().IsRegular():
			add("source", f.Source+" is not a file", "name files one by one; pack folders as a module")
			continue
		}
		if !f.Allows(spec.Outside) && im.outside(f.Source) {
			add("source", f.Source+" is not below the definition's folder: it would be missing where the definition is copied to",
				`move it there, or say that it is meant: allow = ["outside"]`)
		}
		if !f.Allows(spec.Credential) {
			why, err := secret(f)
			if err != nil {
				add("source", because(f.Source, err), "make it readable")
			} else if why != "" {
				add("source", f.Source+" "+why+", and everybody who has the image would have it",
					`leave it out, or say that it is meant: allow = ["credential"]`)
			}
		}
	}
	return problems
}

// outside says whether a file, links followed, is not below the folder of the
// definition.
func (im *image) outside(source string) bool {
	dir, errDir := filepath.EvalSymlinks(filepath.Dir(im.file))
	file, errFile := filepath.EvalSymlinks(source)
	if errDir != nil || errFile != nil {
		return true
	}
	absDir, errDir := filepath.Abs(dir)
	absFile, errFile := filepath.Abs(file)
	rel, err := filepath.Rel(absDir, absFile)
	return errors.Join(errDir, errFile, err) != nil || rel == ".." || strings.HasPrefix(rel, ".."+string(filepath.Separator))
}

// secretNames are names under which keys and passwords are kept.
var secretNames = []string{"*.key", "*.p12", "*.pfx", "*.kdbx", "*.keytab", "id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", "ssh_host_*_key",
	".netrc", ".pgpass", ".git-credentials", "credentials", "shadow", "gshadow", "HOLDER.KEY", "NODE.KEY", "ISSUER.KEY"}

// secretText is what keys and passwords say of themselves.
var secretText = [][]byte{[]byte("PRIVATE KEY-----"), []byte("PRIVATE KEY BLOCK-----"), []byte("PuTTY-User-Key-File-"), []byte("AWS_SECRET_ACCESS_KEY")}

// secret says why a file looks like a key or password, or "". It reads the
// first megabyte.
func secret(f spec.File) (string, error) {
	for _, name := range []string{filepath.Base(f.Source), path.Base(f.Path)} {
		for _, pattern := range secretNames {
			if ok, _ := path.Match(pattern, name); ok {
				return "has the name of a key or password, " + name, nil
			}
		}
	}
	file, err := os.Open(f.Source)
	if err != nil {
		return "", err
	}
	defer file.Close()
	head, err := io.ReadAll(io.LimitReader(file, 1<<20))
	if err != nil {
		return "", err
	}
	for _, text := range secretText {
		if bytes.Contains(head, text) {
			return "holds " + string(bytes.TrimRight(text, "-")), nil
		}
	}
	return "", nil
}

// addFiles puts the module of the definition's files on top of the stack.
func (im *image) addFiles(b *base.Base, s *stack) error {
	if len(im.def.Files) == 0 {
		return nil
	}
	system, f, err := openSquashfs(b.Path(base.Squashfs))
	if err != nil {
		return err
	}
	defer f.Close()
	below, err := layer.SharedFiles(system)
	if err != nil {
		return err
	}
	layers := []*squashfs.Image{system}
	for _, m := range s.modules {
		for p, text := range m.Shared {
			below[p] = compose.Join(p, below[p], text)
		}
		layers = append(layers, m.Image)
	}
	entries, err := im.fileEntries(compose.ParseAccounts(below["etc/passwd"], below["etc/group"]), s.missing != nil)
	if err != nil {
		return err
	}
	out := s.temp.Join("files.module")
	created := b.Manifest.Time
	for _, e := range entries {
		e.Time = created
	}
	entries = append(entries, foldersAbove(entries, layers)...)
	if err := layer.Pack(out, layer.Manifest{Name: filesModule, Version: "1"}, im.file, entries, below, created); err != nil {
		return err
	}
	m, err := layer.Open(out)
	if err != nil {
		return err
	}
	s.modules = append(s.modules, m)
	return nil
}

// fileEntries returns the files as entries. An owner that nobody knows is a
// problem, unless packages that would bring it are missing yet: then it is root.
func (im *image) fileEntries(known compose.Accounts, missing bool) ([]*squashfs.Entry, error) {
	var problems diag.List
	var entries []*squashfs.Entry
	for i, f := range im.def.Files {
		info, err := os.Stat(f.Source)
		if err != nil {
			return nil, err
		}
		mode, err := strconv.ParseUint(f.Mode, 8, 32)
		if err != nil {
			return nil, err // Validate has seen it
		}
		e := &squashfs.Entry{Path: strings.TrimPrefix(f.Path, "/"), Mode: squashfs.Regular | uint32(mode), Size: info.Size(),
			Open: func() (io.ReadCloser, error) { return os.Open(f.Source) }}
		user, group, _ := strings.Cut(f.Owner, ":")
		if group == "" {
			group = user
		}
		var okUser, okGroup bool
		e.UID, okUser = account(user, known.Users)
		e.GID, okGroup = account(group, known.Groups)
		if !(okUser && okGroup) && !missing {
			problems.Add(im.problem(fmt.Sprintf("files[%d].owner", i), strconv.Quote(f.Owner)+" is no user and group of the base, packages or modules",
				"use names that they have"))
		}
		entries = append(entries, e)
	}
	return entries, problems.Err()
}

// account returns the id of a name, or of its digits.
func account(name string, known map[string]uint32) (uint32, bool) {
	if id, ok := known[name]; ok {
		return id, true
	}
	id, err := strconv.ParseUint(name, 10, 16)
	return uint32(id), err == nil
}

// foldersAbove returns the folders above entries as the layers below have
// them: the uppermost layer's mode and owner of a folder are those seen.
func foldersAbove(entries []*squashfs.Entry, layers []*squashfs.Image) []*squashfs.Entry {
	var out []*squashfs.Entry
	seen := map[string]bool{}
	for _, e := range entries {
		for p := path.Dir(e.Path); p != "." && !seen[p]; p = path.Dir(p) {
			seen[p] = true
			for i := len(layers) - 1; i >= 0; i-- {
				if below := layers[i].Lookup(p); below != nil && below.Type() == squashfs.Dir {
					copied := *below
					out = append(out, &copied)
					break
				}
			}
		}
	}
	return out
}
