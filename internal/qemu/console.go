package qemu

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// ErrEnded is returned when the machine ended while something was awaited.
var ErrEnded = errors.New("the machine has ended")

// ErrPanic is returned when the guest's kernel gave up while something was
// awaited.
var ErrPanic = errors.New("the machine's kernel panicked")

// Console is a machine's serial console: what the guest has written so far,
// and a way to type. Waiting goes forward only: each wait begins where the
// last one's match ended.
type Console struct {
	input io.Writer
	live  io.Writer

	mu      sync.Mutex
	text    []byte        // everything written so far
	read    int           // up to here waits have matched
	changed chan struct{} // closed and replaced when text grows or the machine ends
	ended   error         // non-nil when the machine has ended: ErrEnded and QEMU's own error
	count   int           // commands run, for their markers
}

func newConsole(input, live io.Writer) *Console {
	return &Console{input: input, live: live, changed: make(chan struct{})}
}

// Write takes what the guest writes; QEMU's output is connected to it.
func (c *Console) Write(p []byte) (int, error) {
	if c.live != nil {
		c.live.Write(p) // a reader that went away does not stop the machine
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.text = append(c.text, p...)
	c.wakeLocked()
	return len(p), nil
}

// end tells those who wait that the machine has ended; err is QEMU's, or nil.
func (c *Console) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = ErrEnded
	if err != nil {
		c.ended = fmt.Errorf("%w: %w", ErrEnded, err)
	}
	c.wakeLocked()
}

func (c *Console) wakeLocked() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// Transcript returns everything the guest has written so far.
func (c *Console) Transcript() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.text)
}

// Tail returns the last n lines of the transcript, without escape sequences.
func (c *Console) Tail(n int) string {
	lines := strings.Split(strings.TrimSpace(Plain(c.Transcript())), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// escapes are ANSI control sequences and operating system commands.
var escapes = regexp.MustCompile(`\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(\x07|\x1b\\)|\x1b[=>c()][0B]?|\r`)

// Plain returns terminal output as a person reads it: no escape sequences, no
// carriage returns.
func Plain(s string) string { return escapes.ReplaceAllString(s, "") }

// panicked is how Linux says that nothing more will come.
var panicked = regexp.MustCompile(`end Kernel panic - not syncing`)

// WaitFor waits until the guest writes a match of re and returns the match and
// its groups. The error is ErrEnded when the machine ends first, ErrPanic when
// its kernel gives up; after timeout it carries the console's last lines.
func (c *Console) WaitFor(re *regexp.Regexp, timeout time.Duration) ([]string, error) {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for {
		c.mu.Lock()
		rest := c.text[c.read:]
		if at := re.FindSubmatchIndex(rest); at != nil {
			groups := submatches(rest, at)
			c.read += at[1]
			c.mu.Unlock()
			return groups, nil
		}
		changed, ended := c.changed, c.ended
		c.mu.Unlock()
		if ended == nil && panicked.Match(rest) {
			ended = ErrPanic
		}
		if ended != nil {
			return nil, fmt.Errorf("wait for %q: %w; its last lines:\n%s", re, ended, c.Tail(20))
		}
		select {
		case <-changed:
		case <-timer.C:
			return nil, fmt.Errorf("wait for %q: not there after %v; the last lines:\n%s", re, timeout, c.Tail(20))
		}
	}
}

func submatches(text []byte, at []int) []string {
	groups := make([]string, len(at)/2)
	for i := range groups {
		if at[2*i] >= 0 {
			groups[i] = string(text[at[2*i]:at[2*i+1]])
		}
	}
	return groups
}

// Skip passes over everything written so far: waits see only what comes.
func (c *Console) Skip() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read = len(c.text)
}

// Send types text.
func (c *Console) Send(text string) error {
	_, err := io.WriteString(c.input, text)
	return err
}

var prompt = regexp.MustCompile(`[$#] (\x1b\[[0-9;?]*[a-zA-Z])*$`)

// Login waits for the shell of the console's automatic login and makes it
// quiet: no echo, no prompt, no colours, no line editing, no narrow tables.
func (c *Console) Login(timeout time.Duration) error {
	for deadline := time.Now().Add(timeout); ; {
		if err := c.Send("\r"); err != nil {
			return fmt.Errorf("log in: %w", ErrEnded)
		}
		_, err := c.WaitFor(prompt, 3*time.Second)
		if err == nil {
			break
		}
		if errors.Is(err, ErrEnded) || time.Now().After(deadline) {
			return fmt.Errorf("log in: %w", err)
		}
	}
	for _, step := range []struct{ send, want string }{
		{"exec env TERM=dumb PAGER=cat PS1='@''@> ' LC_ALL=C.UTF-8 bash --noprofile --norc --noediting", `@@> $`},
		{"stty -echo cols 1000; PS1=; PS2=; echo '@@''quiet'", `@@quiet\r?\n`},
	} {
		if err := c.Send(step.send + "\r"); err != nil {
			return fmt.Errorf("log in: %w", ErrEnded)
		}
		if _, err := c.WaitFor(regexp.MustCompile(step.want), timeout); err != nil {
			return fmt.Errorf("log in: %w", err)
		}
	}
	return nil
}

// Run runs a command line in a subshell of the shell that Login left and
// returns what it wrote, standard error included, and its exit status. An error
// means that the end of the command was not seen.
//
// The markers around the output are written by the shell in two halves, so
// that the terminal's echo of the command cannot be taken for them.
func (c *Console) Run(command string, timeout time.Duration) (output string, exit int, err error) {
	c.mu.Lock()
	c.count++
	mark := "@@" + strconv.Itoa(c.count)
	c.mu.Unlock()
	line := fmt.Sprintf("echo '%s''<'; ( %s\n) 2>&1 </dev/null; echo '%s''>'$?';'\n", mark, command, mark)
	if err := c.Send(line); err != nil {
		return "", -1, fmt.Errorf("run %q: %w", command, ErrEnded)
	}
	re := regexp.MustCompile(`(?s)` + mark + `<\r?\n(.*)` + mark + `>(\d+);`)
	groups, err := c.WaitFor(re, timeout)
	if err != nil {
		return "", -1, fmt.Errorf("run %q: %w", command, err)
	}
	exit, err = strconv.Atoi(groups[2])
	return Plain(groups[1]), exit, err
}
