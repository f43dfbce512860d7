package guard

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// starter is a condor_starter: what runs one job on a slot.
type starter struct {
	pid  int
	slot string // slot1_1
	host string // of the machine that claimed the slot: a name, or an address without one
}

// errNoStarter says that a process is not one.
var errNoStarter = errors.New("not a condor_starter")

// starterOf returns the starter that a process is a child of.
func starterOf(pid int) (starter, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return starter{}, fmt.Errorf("who asks: %w", err)
	}
	// The name, in parentheses, may hold anything (proc_pid_stat(5)).
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 2 {
		return starter{}, fmt.Errorf("who asks: process %d has no parent", pid)
	}
	parent, err := strconv.Atoi(fields[1])
	if err != nil {
		return starter{}, fmt.Errorf("who asks: process %d: %w", pid, err)
	}
	return readStarter(parent)
}

// readStarter reads a process of root's that runs condor_starter: the kernel
// lets nobody else claim to be that.
func readStarter(pid int) (starter, error) {
	folder := fmt.Sprintf("/proc/%d", pid)
	exe, err := os.Readlink(filepath.Join(folder, "exe"))
	if err != nil {
		return starter{}, err
	}
	if filepath.Base(exe) != "condor_starter" || !rootStarted(filepath.Join(folder, "status")) {
		return starter{}, fmt.Errorf("process %d: %w", pid, errNoStarter)
	}
	line, err := os.ReadFile(filepath.Join(folder, "cmdline"))
	if err != nil {
		return starter{}, err
	}
	s, err := parseStarter(strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00"))
	s.pid = pid
	return s, err
}

// rootStarted says whether the real user of a process is root.
func rootStarted(status string) bool {
	text, err := os.ReadFile(status)
	return err == nil && strings.Contains(string(text), "\nUid:\t0\t")
}

// parseStarter reads a starter's command line, as startd writes it:
//
//	condor_starter -f -local-name slot_type_1 -a slot1_1 C250000018.ipop
func parseStarter(argv []string) (starter, error) {
	i := slices.Index(argv, "-a")
	if i < 0 || len(argv) != i+3 {
		return starter{}, fmt.Errorf("starter %q: want -a, a slot and a host at the end", argv)
	}
	return starter{slot: argv[i+1], host: argv[i+2]}, nil
}
