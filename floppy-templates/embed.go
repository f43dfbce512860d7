// Package floppytemplates holds a sample GRID.TML for each role, and one with
// every key. Their comments are the reference; they and
// docs/reference/floppy.md are written by `go test ./floppy -update` from the
// table of keys in package floppy.
package floppytemplates

import "embed"

// FS holds worker.toml, client.toml, master.toml, standalone.toml and
// complete.toml.
//
//go:embed *.toml
var FS embed.FS
