// Package sysrun runs external programs: always with an argument list, never
// through a shell, always ended with its whole process group when the context
// ends, always with an error that carries what the program said.
//
// It is the only place of the project that imports os/exec outside tests.
package sysrun

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

// Command is a program to run. Name and Args are as for exec.Command.
type Command struct {
	Name   string
	Args   []string
	Dir    string    // working directory; "" is the caller's
	Env    []string  // complete environment; nil is the caller's
	Stdin  io.Reader // nil is empty
	Stdout io.Writer // nil collects into Result.Stdout
	Stderr io.Writer // nil collects; else gets a copy as it comes
	Tied   bool      // killed by the kernel when this process dies, however it dies (Linux)

	// Terminal runs a program that a person uses, such as an editor: it stays
	// in the caller's process group, or it could not read the terminal, and
	// its Stderr is not collected.
	Terminal bool
}

// Result is what a program left.
type Result struct {
	Stdout []byte // empty when Command.Stdout was set
	Stderr []byte // at most the last 64 KiB
	Exit   int    // exit status; -1 when ended by a signal
}

// Error is returned when a program could not start or did not exit with 0.
type Error struct {
	Command string // the command line, for reading
	Exit    int    // exit status; -1 when it did not run or was ended by a signal
	Stderr  string // the last lines it wrote to stderr
	Err     error
}

func (e *Error) Error() string {
	s := fmt.Sprintf("run %s: %v", e.Command, e.Err)
	if e.Stderr != "" {
		s += ": " + e.Stderr
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// killDelay is how long a program has between SIGTERM and SIGKILL once the
// context has ended.
const killDelay = 5 * time.Second

// Run runs c to its end. It returns a *Error when the program cannot start,
// ends with another status than 0, or is ended because ctx ended; the Result
// is valid in every case.
func Run(ctx context.Context, c Command) (Result, error) {
	cmd := exec.CommandContext(ctx, c.Name, c.Args...)
	cmd.Dir, cmd.Env, cmd.Stdin = c.Dir, c.Env, c.Stdin
	if !c.Terminal {
		ownGroup(cmd)
		cmd.Cancel = func() error { return terminate(cmd) }
	}
	if c.Tied {
		// The kernel watches the thread that starts the program, so keep it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		tie(cmd)
	}
	cmd.WaitDelay = killDelay

	var out bytes.Buffer
	cmd.Stdout = &out
	if c.Stdout != nil {
		cmd.Stdout = c.Stdout
	}
	tail := &tailWriter{max: 64 << 10}
	cmd.Stderr = tail
	if c.Stderr != nil {
		cmd.Stderr = io.MultiWriter(tail, c.Stderr)
	}
	if c.Terminal {
		cmd.Stderr = c.Stderr
	}
	err := cmd.Run()
	if cmd.Process != nil && ctx.Err() != nil && !c.Terminal {
		kill(cmd) // children that ignored SIGTERM
	}
	r := Result{Stdout: out.Bytes(), Stderr: tail.buf, Exit: -1}
	if cmd.ProcessState != nil {
		r.Exit = cmd.ProcessState.ExitCode()
	}
	if err == nil {
		return r, nil
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return r, &Error{Command: commandLine(c), Exit: r.Exit, Stderr: lastLines(string(tail.buf), 5), Err: err}
}

// Output runs c and returns its standard output.
func Output(ctx context.Context, name string, args ...string) ([]byte, error) {
	r, err := Run(ctx, Command{Name: name, Args: args})
	return r.Stdout, err
}

// Find returns the path of the first of names that is installed, looking in
// PATH and in the sbin folders that an ordinary user's PATH lacks on Debian.
func Find(names ...string) (string, error) {
	for _, n := range names {
		if p, err := exec.LookPath(n); err == nil {
			return p, nil
		}
		for _, dir := range []string{"/usr/sbin/", "/sbin/", "/usr/local/sbin/"} {
			if p, err := exec.LookPath(dir + n); err == nil {
				return p, nil
			}
		}
	}
	return "", fmt.Errorf("find %s: %w", strings.Join(names, " or "), exec.ErrNotFound)
}

// ErrNotFound is wrapped by errors of programs that are not installed.
var ErrNotFound = exec.ErrNotFound

// NotFound says whether err is about a program that is not installed.
func NotFound(err error) bool { return errors.Is(err, exec.ErrNotFound) }

func commandLine(c Command) string {
	words := []string{c.Name}
	for _, a := range c.Args {
		if a == "" || strings.ContainsAny(a, " \t\n'\"\\$") {
			a = fmt.Sprintf("%q", a)
		}
		words = append(words, a)
	}
	return strings.Join(words, " ")
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, "\n")
}

// tailWriter keeps the last max bytes written to it.
type tailWriter struct {
	buf []byte
	max int
}

func (w *tailWriter) Write(p []byte) (int, error) {
	w.buf = append(w.buf, p...)
	if over := len(w.buf) - w.max; over > 0 {
		w.buf = append(w.buf[:0], w.buf[over:]...)
	}
	return len(p), nil
}
