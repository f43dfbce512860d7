package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gridappliance/internal/diag"
	"gridappliance/internal/sysrun"
	"gridappliance/overlayd/control"
)

// askTime bounds each question to a daemon.
const askTime = 20 * time.Second

// machine is what the verbs look at. Tests have another than here.
type machine struct {
	root    string // folder of the machine's files
	overlay *control.Client
	tool    func(ctx context.Context, name string, args ...string) (string, error) // a program's standard output
	resolve func(ctx context.Context, host string) ([]string, error)
	free    func(path string) (free, all uint64, err error) // bytes
	now     func() time.Time
	uid     func() int
}

// here is this machine.
func here() *machine {
	return &machine{
		root:    "/",
		overlay: control.Dial(control.SocketPath),
		tool: func(ctx context.Context, name string, args ...string) (string, error) {
			ctx, cancel := context.WithTimeout(ctx, askTime)
			defer cancel()
			out, err := sysrun.Output(ctx, name, args...)
			return strings.TrimSpace(string(out)), err
		},
		resolve: func(ctx context.Context, host string) ([]string, error) {
			return net.DefaultResolver.LookupHost(ctx, host)
		},
		free: func(path string) (uint64, uint64, error) {
			var s unix.Statfs_t
			err := unix.Statfs(path, &s)
			return s.Bavail * uint64(s.Bsize), s.Blocks * uint64(s.Bsize), err
		},
		now: time.Now,
		uid: os.Geteuid,
	}
}

// report is /run/grid/status.json, as firstboot writes it.
type report struct {
	State   string   `json:"state"`
	Detail  string   `json:"detail"`
	Role    string   `json:"role"`
	Grid    string   `json:"grid"`
	Group   string   `json:"group"`
	Name    string   `json:"name"`
	Address string   `json:"address"`
	Source  string   `json:"source"`
	Errors  []string `json:"errors"`
}

// report reads how far the machine is.
func (m *machine) report() (report, error) {
	var r report
	text, err := m.read("run/grid/status.json")
	if errors.Is(err, fs.ErrNotExist) {
		return r, fmt.Errorf("firstboot has not run since the machine started: %w", diag.ErrNothing)
	}
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	return r, err
}

func (m *machine) read(name string) ([]byte, error) { return os.ReadFile(filepath.Join(m.root, name)) }

// lines runs a program and returns the words of each line it prints.
func (m *machine) lines(ctx context.Context, name string, args ...string) ([][]string, error) {
	out, err := m.tool(ctx, name, args...)
	if err != nil {
		return nil, err
	}
	var all [][]string
	for line := range strings.Lines(out) {
		if words := strings.Fields(line); len(words) > 0 {
			all = append(all, words)
		}
	}
	return all, nil
}
