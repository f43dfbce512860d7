package diag

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFormatDrawsTheCaretBelowTheColumn(t *testing.T) {
	p := Problem{File: "alice.img/GRID.TML", Line: 3, Column: 2, Path: "network.mtv",
		Message: "unknown key", Excerpt: "\tmtv = 1280", Remedy: `did you mean "mtu"?`}
	want := "alice.img/GRID.TML:3:2: network.mtv: unknown key\n" +
		"    \tmtv = 1280\n" +
		"    \t^\n" +
		"  remedy: did you mean \"mtu\"?\n"
	if diff := cmp.Diff(want, p.Format()); diff != "" {
		t.Error(diff)
	}
	if got, want := p.Error(), `alice.img/GRID.TML:3:2: network.mtv: unknown key (did you mean "mtu"?)`; got != want {
		t.Errorf("Error() = %q, want %q", got, want)
	}
}

func TestFormatWithoutAPlace(t *testing.T) {
	p := Problem{Message: "no floppy", Column: 99, Excerpt: "short"}
	if got, want := p.Format(), "no floppy\n    short\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestSuggest(t *testing.T) {
	keys := []string{"mtu", "mode", "device", "multicast", "lan-interface"}
	for word, want := range map[string]string{
		"mtv": "mtu", "devcie": "device", "multi-cast": "multicast", "laninterface": "lan-interface",
		"x": "", "frobnicate": "", "": "",
	} {
		if got := Suggest(word, keys); got != want {
			t.Errorf("Suggest(%q) = %q, want %q", word, got, want)
		}
	}
}

func TestEditDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"abc", "", 3}, {"abc", "abd", 1}, {"abcd", "abdc", 1}, {"kitten", "sitting", 3}} {
		if got := editDistance(c.a, c.b); got != c.want {
			t.Errorf("editDistance(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

func TestReportMapsErrorsToExitCodes(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want int
	}{
		"nothing wrong": {nil, ExitDone},
		"failure":       {errors.New("read x: broken"), ExitFailed},
		"usage":         {UsageError{errors.New("no floppy named")}, ExitUsage},
		"configuration": {fmt.Errorf("check: %w", List{{Message: "a"}, {Message: "b"}}), ExitInvalid},
		"one problem":   {fmt.Errorf("check: %w", Problem{Message: "a"}), ExitInvalid},
		"privilege":     {fmt.Errorf("open: %w", os.ErrPermission), ExitDenied},
		"nothing to do": {fmt.Errorf("apply: %w", ErrNothing), ExitNothing},
	} {
		var out bytes.Buffer
		if got := Report(&out, "builder", c.err); got != c.want {
			t.Errorf("%s: exit %d, want %d (%s)", name, got, c.want, out.String())
		}
	}
}

func TestSortKeepsOrderWithinAPlace(t *testing.T) {
	l := List{{File: "b"}, {File: "a", Line: 2, Message: "first"}, {File: "a", Line: 2, Message: "second"}, {File: "a", Line: 1}}
	l.Sort()
	want := List{{File: "a", Line: 1}, {File: "a", Line: 2, Message: "first"}, {File: "a", Line: 2, Message: "second"}, {File: "b"}}
	if diff := cmp.Diff(want, l); diff != "" {
		t.Error(diff)
	}
}
