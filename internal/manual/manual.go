// Package manual keeps docs/man equal to what the commands' own help says: one
// page in section 1 for each verb, generated from its cobra definition.
//
// Each command's package has one test that calls Check, and a flag -update that
// makes Check rewrite the pages. Only tests import this package.
package manual

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// Check compares the manual pages of root and all its verbs with the files in
// dir (docs/man, relative to the test's package). With the test flag -update it
// writes them and removes pages of verbs that are gone.
func Check(t *testing.T, root *cobra.Command, dir string) {
	t.Helper()
	f := flag.Lookup("update")
	update := f != nil && f.Value.String() == "true"
	root.InitDefaultCompletionCmd()
	want := pages(t, root)
	have, err := filepath.Glob(filepath.Join(dir, root.Name()+"*.1"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range have {
		if _, ok := want[filepath.Base(file)]; ok {
			continue
		}
		if !update {
			t.Errorf("%s: no such verb any more (run with -update)", file)
		} else if err := os.Remove(file); err != nil {
			t.Error(err)
		}
	}
	for name, page := range want {
		file := filepath.Join(dir, name)
		if update {
			if err := os.WriteFile(file, page, 0o644); err != nil {
				t.Error(err)
			}
			continue
		}
		old, _ := os.ReadFile(file)
		if diff := cmp.Diff(string(old), string(page)); diff != "" {
			t.Errorf("%s is not what the command says (run with -update):\n%s", file, diff)
		}
	}
}

// edition stands at the foot of every page: fixed, so that a page's bytes
// depend on the help alone.
var edition = time.Date(2026, time.November, 1, 0, 0, 0, 0, time.UTC)

// pages generates the page of c and of every verb below it, by file name.
func pages(t *testing.T, c *cobra.Command) map[string][]byte {
	t.Helper()
	c.DisableAutoGenTag = true
	all := map[string][]byte{}
	name := strings.ReplaceAll(c.CommandPath(), " ", "-")
	header := &doc.GenManHeader{
		Title:   strings.ToUpper(name),
		Section: "1",
		Source:  "grid appliance",
		Manual:  "Grid Appliance Manual",
		Date:    &edition,
	}
	var b bytes.Buffer
	if err := doc.GenMan(c, header, &b); err != nil {
		t.Fatal(err)
	}
	all[name+".1"] = b.Bytes()
	for _, sub := range c.Commands() {
		if !sub.IsAvailableCommand() || sub.Name() == "completion" || sub.Name() == "help" {
			continue
		}
		for n, p := range pages(t, sub) {
			all[n] = p
		}
	}
	return all
}
