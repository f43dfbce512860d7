package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// lookingIn is the document whose console blocks are what the commands print.
const lookingIn = "../docs/looking-in.md"

var consoleBlock = regexp.MustCompile("(?s)```console\n(.*?)```")

// TestGuide runs every command of the guide's console blocks and holds the
// guide against what they print.
func TestGuide(t *testing.T) {
	text, err := os.ReadFile(lookingIn)
	if err != nil {
		t.Fatal(err)
	}
	socket := serveTestNode(t)
	ran := 0
	got := consoleBlock.ReplaceAllStringFunc(string(text), func(block string) string {
		var out strings.Builder
		for line := range strings.Lines(block) {
			typed, isCommand := strings.CutPrefix(line, "$ overlayd ")
			if !isCommand {
				continue
			}
			args := quoted.FindAllString(typed, -1)
			for i := range args {
				args[i] = strings.Trim(args[i], `"`)
			}
			_, stdout, stderr := command(append(args, "--control", socket)...)
			out.WriteString(line + stdout + stderr)
			ran++
		}
		return "```console\n" + out.String() + "```"
	})
	if ran == 0 {
		t.Fatal("the guide has no command")
	}
	if *update {
		if err := os.WriteFile(lookingIn, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(text), got); diff != "" {
		t.Errorf("the guide is not what the commands print (-guide +printed; -update rewrites it):\n%s", diff)
	}
}
