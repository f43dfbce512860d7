package netlab

import (
	"bytes"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gridappliance/internal/sysrun"
)

// stopTime is what a process gets between SIGTERM and SIGKILL at the end of
// its test.
const stopTime = 5 * time.Second

// Process is a program that runs beside the test, with its output kept.
type Process struct {
	t    testing.TB
	proc *os.Process
	done chan struct{} // closed when it has ended and its output is whole

	mu    sync.Mutex
	out   bytes.Buffer
	grown chan struct{} // closed and replaced when out grows
	state *os.ProcessState
}

// Start starts a program in n, in a process group of its own. It is stopped
// when the test ends.
func (n *Node) Start(argv ...string) *Process {
	n.t.Helper()
	var p *Process
	n.Do(func() { p = start(n.t, argv) })
	return p
}

// StartMounted is Start with files mounted over others for the program alone:
// binds maps what it sees to what it gets.
func (n *Node) StartMounted(binds map[string]string, argv ...string) *Process {
	n.t.Helper()
	var p *Process
	privateMounts(n.t, func() {
		for target, source := range binds {
			check(n.t, unix.Mount(source, target, "", unix.MS_BIND, ""))
		}
		n.Do(func() { p = start(n.t, argv) })
	})
	return p
}

// privateMounts calls f on a thread whose mounts nobody else sees. It fails
// the test when f does.
func privateMounts(t testing.TB, f func()) {
	t.Helper()
	var wg sync.WaitGroup
	whole := false
	wg.Go(func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		check(t, unix.Unshare(unix.CLONE_NEWNS))
		check(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
		f()
		whole = true
	})
	wg.Wait()
	if !whole {
		t.FailNow()
	}
}

// start runs argv from the calling thread, so in its namespaces.
func start(t testing.TB, argv []string) *Process {
	t.Helper()
	path, err := sysrun.Find(argv[0])
	check(t, err)
	null, err := os.Open(os.DevNull)
	check(t, err)
	defer null.Close()
	r, w, err := os.Pipe()
	check(t, err)
	defer w.Close()
	proc, err := os.StartProcess(path, argv, &os.ProcAttr{
		Files: []*os.File{null, w, w},
		Sys:   &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		r.Close()
		t.Fatal(err)
	}
	p := &Process{t: t, proc: proc, done: make(chan struct{}), grown: make(chan struct{})}
	go p.collect(r)
	t.Cleanup(p.stop)
	return p
}

// collect keeps the output until every holder of the pipe has gone.
func (p *Process) collect(r *os.File) {
	defer close(p.done)
	defer r.Close()
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		io.Copy(p, r)
	}()
	state, _ := p.proc.Wait()
	p.mu.Lock()
	p.state = state
	p.mu.Unlock()
	select {
	case <-copied:
	case <-time.After(time.Second): // a grandchild keeps the pipe open
	}
}

// Write keeps output; it is for the process's pipe.
func (p *Process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.out.Write(b)
	close(p.grown)
	p.grown = make(chan struct{})
	return len(b), nil
}

// Pid is the process's id.
func (p *Process) Pid() int { return p.proc.Pid }

// Output is all it has written so far, on either stream.
func (p *Process) Output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// WaitFor waits until the output contains text, and fails the test when the
// process ends before or the time is over.
func (p *Process) WaitFor(text string, patience time.Duration) {
	p.t.Helper()
	deadline := time.After(patience)
	for {
		p.mu.Lock()
		found, grown := strings.Contains(p.out.String(), text), p.grown
		p.mu.Unlock()
		if found {
			return
		}
		select {
		case <-grown:
		case <-p.done:
			if !strings.Contains(p.Output(), text) {
				p.t.Fatalf("process %d ended without saying %q:\n%s", p.Pid(), text, p.Output())
			}
			return
		case <-deadline:
			p.t.Fatalf("process %d has not said %q within %v:\n%s", p.Pid(), text, patience, p.Output())
		}
	}
}

// Signal sends sig to the process alone.
func (p *Process) Signal(sig syscall.Signal) { p.proc.Signal(sig) }

// Wait waits for the end and returns the exit status, -1 after a signal; it
// fails the test when the time is over.
func (p *Process) Wait(patience time.Duration) int {
	p.t.Helper()
	select {
	case <-p.done:
		return p.state.ExitCode()
	case <-time.After(patience):
		p.t.Fatalf("process %d still runs after %v:\n%s", p.Pid(), patience, p.Output())
		return -1
	}
}

// stop ends the process and its group.
func (p *Process) stop() {
	select {
	case <-p.done:
		return
	default:
	}
	p.proc.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(stopTime):
	}
	syscall.Kill(-p.proc.Pid, syscall.SIGKILL)
	<-p.done
}
