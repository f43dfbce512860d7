package diag

import (
	"errors"
	"io"
	"os"
)

// Exit codes of every command of the project (HOUSE rules: one table for all).
const (
	ExitDone    = 0 // what was asked for is done
	ExitFailed  = 1 // tried and failed
	ExitUsage   = 2 // the command line is wrong
	ExitInvalid = 3 // a configuration, floppy or definition is wrong
	ExitDenied  = 4 // a privilege is missing; the message names it
	ExitNothing = 5 // nothing to do was possible
)

// ErrNothing is returned (wrapped) when nothing to do was possible.
var ErrNothing = errors.New("nothing to do")

// UsageError is a mistake on the command line.
type UsageError struct{ Err error }

func (e UsageError) Error() string { return e.Err.Error() }
func (e UsageError) Unwrap() error { return e.Err }

// Report writes err for a person to stderr, prefixed with the command's name,
// and returns the exit code that goes with it. A nil err writes nothing.
func Report(stderr io.Writer, command string, err error) int {
	if err == nil {
		return ExitDone
	}
	if l := Of(err); l != nil {
		io.WriteString(stderr, l.Format())
		return ExitInvalid
	}
	io.WriteString(stderr, command+": "+err.Error()+"\n")
	var usage UsageError
	switch {
	case errors.As(err, &usage):
		io.WriteString(stderr, "Run '"+command+" --help' for usage.\n")
		return ExitUsage
	case errors.Is(err, os.ErrPermission):
		return ExitDenied
	case errors.Is(err, ErrNothing):
		return ExitNothing
	}
	return ExitFailed
}
