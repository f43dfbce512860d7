package sysrun

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestRunCollectsOutputAndStatus(t *testing.T) {
	r, err := Run(context.Background(), Command{Name: "sh", Args: []string{"-c", "cat; echo no >&2; exit 3"}, Stdin: strings.NewReader("in")})
	var e *Error
	if !errors.As(err, &e) || e.Exit != 3 || r.Exit != 3 {
		t.Fatalf("got %v, %+v; want exit 3", err, r)
	}
	if string(r.Stdout) != "in" || string(r.Stderr) != "no\n" {
		t.Errorf("stdout %q, stderr %q", r.Stdout, r.Stderr)
	}
	if !strings.Contains(err.Error(), "no") || !strings.HasPrefix(err.Error(), "run sh -c ") {
		t.Errorf("error does not say what was run and what it said: %v", err)
	}
}

func TestArgumentsReachNoShell(t *testing.T) {
	out, err := Output(context.Background(), "printf", "%s", "$(id); `id` > x")
	if err != nil || string(out) != "$(id); `id` > x" {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestContextEndsTheWholeProcessGroup(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	// The child sleep holds the output pipe; only killing the group frees it.
	_, err := Run(ctx, Command{Name: "sh", Args: []string{"-c", "sleep 60 & sleep 60"}})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the context's error", err)
	}
	if d := time.Since(start); d > 4*time.Second {
		t.Errorf("took %v: the child was not ended", d)
	}
}

func TestNotInstalled(t *testing.T) {
	_, err := Output(context.Background(), "no-such-program-anywhere")
	if !NotFound(err) {
		t.Errorf("got %v, want NotFound", err)
	}
	if _, err := Find("no-such-program-anywhere"); !NotFound(err) {
		t.Errorf("Find: got %v, want NotFound", err)
	}
}

func TestStderrIsPassedOnAndBounded(t *testing.T) {
	var live bytes.Buffer
	r, err := Run(context.Background(), Command{Name: "sh", Args: []string{"-c", "head -c 200000 /dev/zero >&2"}, Stderr: &live})
	if err != nil {
		t.Fatal(err)
	}
	if live.Len() != 200000 || len(r.Stderr) != 64<<10 {
		t.Errorf("live %d bytes, kept %d", live.Len(), len(r.Stderr))
	}
}
