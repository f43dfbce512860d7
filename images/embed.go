// Package images holds what the builder lays into an image beside Debian's
// packages, and image definitions. It is data; the builder's package base
// reads it.
//
//	base-packages   Debian packages of every image, one or more a line
//	tools-packages  packages whose programs make an image
//	accounts.sh     makes the image's accounts with their fixed ids
//	layout          what is left out of the tree, made and masked in it
//	modules         kernel modules of the initrd
//	state           paths that live in the user partition's state/ tree
//	root/           files laid over the tree as they are
package images

import (
	"embed"
	"io/fs"
	"strings"
)

// FS holds everything.
//
//go:embed base-packages tools-packages accounts.sh layout modules state all:root
var FS embed.FS

// File returns a file of FS. A name that is not in FS is a mistake of the
// program and panics.
func File(name string) []byte {
	data, err := FS.ReadFile(name)
	if err != nil {
		panic(err)
	}
	return data
}

// Root returns the files laid over the tree, by their path from its root.
func Root() fs.FS {
	root, err := fs.Sub(FS, "root")
	if err != nil {
		panic(err)
	}
	return root
}

// Words returns the words of a file of FS; # begins a comment.
func Words(name string) []string {
	var words []string
	for _, line := range strings.Split(string(File(name)), "\n") {
		line, _, _ = strings.Cut(line, "#")
		words = append(words, strings.Fields(line)...)
	}
	return words
}
