package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"gridappliance/internal/diag"
)

func newRoot(verb error) *cobra.Command {
	root := &cobra.Command{Use: "thing"}
	root.AddCommand(&cobra.Command{
		Use: "do FILE", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			fmt.Fprintln(c.OutOrStdout(), "did "+args[0])
			return verb
		},
	})
	group := &cobra.Command{Use: "group"}
	group.AddCommand(&cobra.Command{Use: "verb", Run: func(*cobra.Command, []string) {}})
	root.AddCommand(group)
	return root
}

func TestExitStatusTellsWhoseMistakeItWas(t *testing.T) {
	for name, c := range map[string]struct {
		args string
		verb error
		want int
		says string
	}{
		"done":              {"do x", nil, diag.ExitDone, "did x"},
		"no verb":           {"", nil, diag.ExitDone, "Usage:"},
		"no such verb":      {"dp x", nil, diag.ExitUsage, `thing has no verb "dp": did you mean "do"?`},
		"none in the group": {"group x", nil, diag.ExitUsage, `thing group has no verb "x": it has verb`},
		"no such flag":      {"do x --fast", nil, diag.ExitUsage, "unknown flag"},
		"argument missing":  {"do", nil, diag.ExitUsage, "accepts 1 arg"},
		"verb's failure":    {"do x", errors.New("read x: broken"), diag.ExitFailed, "thing: read x: broken"},
		"verb found a typo": {"do x", diag.Problem{File: "x", Line: 3, Message: "unknown key"}, diag.ExitInvalid, "x:3: unknown key"},
		"verb lacks rights": {"do x", os.ErrPermission, diag.ExitDenied, "permission denied"},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			got := Run(context.Background(), newRoot(c.verb), strings.Fields(c.args), nil, &stdout, &stderr)
			if got != c.want || !strings.Contains(stdout.String()+stderr.String(), c.says) {
				t.Errorf("exit %d, want %d; stdout %q, stderr %q, want %q in them", got, c.want, stdout.String(), stderr.String(), c.says)
			}
		})
	}
}
