package base

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// initrdPlan is the data file that says which modules the initrd carries and
// which paths of the image live in the user partition's state/ tree.
type initrdPlan struct {
	modules []string // carried, loaded when a device asks for them
	preload []string // carried and loaded at once, in this order
	state   []byte   // the file images/state, as it is
}

// parseModules reads images/modules: a module a line, "!" before those that
// are loaded at once; # begins a comment.
func parseModules(text []byte) (modules, preload []string) {
	for _, line := range strings.Split(string(text), "\n") {
		line, _, _ = strings.Cut(line, "#")
		name := strings.TrimSpace(line)
		if now, ok := strings.CutPrefix(name, "!"); ok {
			preload = append(preload, now)
			name = now
		}
		if name != "" {
			modules = append(modules, name)
		}
	}
	return modules, preload
}

// writeInitrd writes the initial RAM file system, zstd-compressed:
//
//	/init                 firstboot/initrd, the static program that mounts the root
//	/dev/console          for its first words
//	/lib/modules/*.ko     modules, not compressed: the kernel's linking is what takes time
//	/lib/modules.dep      module file: files it needs      (lines of depmod, base names)
//	/lib/modules.alias    depmod's lines for these modules
//	/lib/modules.preload  names to load at once, in order
//	/state                images/state
func writeInitrd(name string, img *image, kernel string, init []byte, plan initrdPlan) error {
	index, err := readModuleIndex(img, kernel)
	if err != nil {
		return err
	}
	names, err := index.closure(plan.modules)
	if err != nil {
		return err
	}
	var archive bytes.Buffer
	c := &cpioWriter{w: &archive}
	for _, d := range []string{"dev", "lib", "lib/modules", "proc", "run", "sys"} {
		c.dir(d)
	}
	c.char("dev/console", 0o600, 5, 1)
	c.file("init", 0o755, init)
	var dep, alias strings.Builder
	carried := map[string]bool{}
	for _, n := range names {
		carried[n] = true
		data, err := img.module(index.dir + "/" + index.file[n])
		if err != nil {
			return err
		}
		c.file("lib/modules/"+n+".ko", 0o644, data)
		var needs []string
		for _, d := range index.needs[n] {
			if !index.builtin[d] {
				needs = append(needs, " "+d+".ko")
			}
		}
		fmt.Fprintf(&dep, "%s.ko:%s\n", n, strings.Join(needs, ""))
	}
	for _, line := range index.aliases { // alias PATTERN MODULE
		if f := strings.Fields(line); len(f) == 3 && carried[f[2]] {
			fmt.Fprintln(&alias, line)
		}
	}
	c.file("lib/modules.dep", 0o644, []byte(dep.String()))
	c.file("lib/modules.alias", 0o644, []byte(alias.String()))
	c.file("lib/modules.preload", 0o644, []byte(strings.Join(plan.preload, "\n")+"\n"))
	c.file("state", 0o644, plan.state)
	if err := c.Close(); err != nil {
		return err
	}
	// One block after another: with several encoders at work the bytes would
	// depend on the number of cores.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedBetterCompression))
	if err != nil {
		return err
	}
	defer enc.Close()
	return os.WriteFile(name, enc.EncodeAll(archive.Bytes(), nil), 0o644)
}

// maxModule bounds what a compressed module may unpack to; the largest real
// one is below 10 MiB.
const maxModule = 64 << 20

// module returns a kernel module's bytes, unpacked.
func (img *image) module(name string) ([]byte, error) {
	r, _, err := img.open(name)
	if err != nil {
		return nil, err
	}
	switch path.Ext(name) {
	case ".ko":
	case ".xz":
		if r, err = xz.NewReader(r); err != nil {
			return nil, fmt.Errorf("unpack %s: %w", name, err)
		}
	case ".zst":
		d, err := zstd.NewReader(r)
		if err != nil {
			return nil, fmt.Errorf("unpack %s: %w", name, err)
		}
		defer d.Close()
		r = d
	default:
		return nil, fmt.Errorf("unpack %s: unknown compression", name)
	}
	data, err := io.ReadAll(io.LimitReader(r, maxModule+1))
	if err == nil && len(data) > maxModule {
		err = fmt.Errorf("more than %d bytes", maxModule)
	}
	if err != nil {
		return nil, fmt.Errorf("unpack %s: %w", name, err)
	}
	return data, nil
}

// kernelVersion returns the version of the tree's one kernel.
func (img *image) kernelVersion() (string, error) {
	found := img.glob("boot/vmlinuz-*")
	if len(found) != 1 {
		return "", fmt.Errorf("find the kernel: %d files boot/vmlinuz-* in the tree instead of 1", len(found))
	}
	return strings.TrimPrefix(filepath.Base(found[0]), "vmlinuz-"), nil
}
