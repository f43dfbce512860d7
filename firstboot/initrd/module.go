//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

const modulesDir = "/lib"

// slow names modules whose start waits for the hardware and that the root does
// not need: a process of their own loads them.
var slow = map[string]bool{"floppy": true}

// loader loads kernel modules, each once. It is safe for concurrent use.
type loader struct {
	dir     string
	needs   map[string][]string // module -> modules it needs
	aliases aliases
	first   []string // to load at once, in order

	mu     sync.Mutex
	loaded map[string]*sync.Once
	seen   map[string]bool // modaliases that were looked up
}

// openLoader reads the index the builder wrote beside the modules.
func openLoader(dir string) (*loader, error) {
	l := &loader{dir: dir, loaded: map[string]*sync.Once{}, seen: map[string]bool{}}
	text := map[string][]byte{}
	for _, n := range []string{"dep", "alias", "preload"} {
		b, err := os.ReadFile(filepath.Join(dir, "modules."+n))
		if err != nil {
			return nil, fmt.Errorf("read the index of drivers: %w", err)
		}
		text[n] = b
	}
	l.needs = parseNeeds(text["dep"])
	l.aliases = parseAliases(text["alias"])
	l.first = strings.Fields(string(text["preload"]))
	return l, nil
}

// parseNeeds reads lines "module.ko: needed.ko needed.ko".
func parseNeeds(text []byte) map[string][]string {
	needs := map[string][]string{}
	for _, line := range strings.Split(string(text), "\n") {
		name, rest, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		name = moduleName(name)
		needs[name] = []string{}
		for _, f := range strings.Fields(rest) {
			needs[name] = append(needs[name], moduleName(f))
		}
	}
	return needs
}

func moduleName(s string) string {
	return strings.ReplaceAll(strings.TrimSuffix(strings.TrimSpace(s), ".ko"), "-", "_")
}

// aliases maps the bus of a modalias ("pci", "virtio") to its patterns.
type aliases map[string][]alias

type alias struct{ pattern, module string }

// parseAliases reads depmod's lines "alias PATTERN MODULE"; all others are
// skipped.
func parseAliases(text []byte) aliases {
	a := aliases{}
	for _, line := range strings.Split(string(text), "\n") {
		f := strings.Fields(line)
		if len(f) != 3 || f[0] != "alias" {
			continue
		}
		if _, err := path.Match(f[1], ""); err != nil {
			continue
		}
		bus := busOf(f[1])
		a[bus] = append(a[bus], alias{f[1], f[2]})
	}
	return a
}

// busOf returns what stands before the first colon, without a trailing star:
// depmod writes "acpi*:PNP0700:*" for devices that say "acpi:PNP0700:".
func busOf(modalias string) string {
	bus, _, _ := strings.Cut(modalias, ":")
	return strings.TrimSuffix(bus, "*")
}

// match returns the modules that drive a device, in the index's order.
func (a aliases) match(modalias string) []string {
	var names []string
	for _, c := range a[busOf(modalias)] {
		if ok, _ := path.Match(c.pattern, modalias); ok {
			names = append(names, c.module)
		}
	}
	return names
}

// preload loads what every machine needs. It returns the errors of all.
func (l *loader) preload() error {
	var errs []error
	for _, n := range l.first {
		errs = append(errs, l.load(moduleName(n)))
	}
	return errors.Join(errs...)
}

// coldplug loads the driver of every device that was not looked at before.
// Errors are left to the one who misses the device.
func (l *loader) coldplug() {
	files, _ := filepath.Glob("/sys/bus/*/devices/*/modalias")
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		modalias := strings.TrimSpace(string(b))
		if l.seen[modalias] {
			continue
		}
		l.seen[modalias] = true
		for _, n := range l.aliases.match(modalias) {
			l.load(moduleName(n))
		}
	}
}

// load loads a module after all it needs. A module of which nothing is known
// is taken for a built-in one.
func (l *loader) load(name string) error {
	needs, known := l.needs[name]
	if !known {
		return nil
	}
	l.mu.Lock()
	once := l.loaded[name]
	if once == nil {
		once = &sync.Once{}
		l.loaded[name] = once
	}
	l.mu.Unlock()
	var err error
	once.Do(func() {
		for _, n := range needs {
			if err = l.load(n); err != nil {
				return
			}
		}
		err = l.insert(name)
	})
	return err
}

func (l *loader) insert(name string) error {
	f, err := os.Open(filepath.Join(l.dir, "modules", name+".ko"))
	if err != nil {
		return fmt.Errorf("load driver %s: %w", name, err)
	}
	defer f.Close()
	if slow[name] {
		_, err = os.StartProcess("/proc/self/exe", []string{"init", "load"},
			&os.ProcAttr{Env: []string{"GRID_INITRD=load"}, Files: []*os.File{nil, nil, nil, f}})
	} else if err = unix.FinitModule(int(f.Fd()), "", 0); err == unix.EEXIST {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("load driver %s: %w", name, err)
	}
	return nil
}
