package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gridappliance/builder/base"
	"gridappliance/internal/need"
)

// floppyMark is bytes of a floppy that stand nowhere else.
var floppyMark = []byte("role = \"standalone\"")

// contains searches a file piece by piece.
func contains(t *testing.T, file string, mark []byte) bool {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, 4<<20)
	for at := int64(0); ; at += int64(len(buf) - len(mark)) {
		n, err := f.ReadAt(buf, at)
		if bytes.Contains(buf[:n], mark) {
			return true
		}
		if err != nil {
			return false
		}
	}
}

// TestRedact: no byte of the floppy is left in any part of the file, the rest
// is the image without a floppy, byte for byte.
func TestRedact(t *testing.T) {
	baseDir := need.Base(t)
	need.Tool(t, "qemu-img")
	flp := standalone(t)
	for _, target := range []string{"raw", "qcow2"} {
		dir := t.TempDir()
		private := strings.TrimSpace(must(t, "build", "--base", baseDir, "--floppy", flp, "--disk", "2G", "--target", target, "-o", dir))
		plain := strings.TrimSpace(must(t, "build", "--base", baseDir, "--no-floppy", "--disk", "2G", "--target", target, "--name", "plain", "-o", dir))
		if target == "qcow2" { // as a machine leaves it: clusters that nothing points to any more
			tool(t, "qemu-io", "-f", "qcow2", "-c", "write -P 0x51 3M 1M", private)
		}
		out := strings.TrimSpace(must(t, "redact", private))
		if out != filepath.Join(dir, "grid."+target) {
			t.Errorf("wrote %s", out)
		}
		if !contains(t, private, floppyMark) || contains(t, out, floppyMark) {
			t.Errorf("%s: the floppy is not inside, or still inside", target)
		}
		if info, _ := os.Stat(out); info.Mode() != 0o644 {
			t.Errorf("%s: mode %v", target, info.Mode())
		}
		if target == "raw" {
			tool(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", plain, out)
		} else {
			tool(t, "qemu-img", "check", "-q", out)
		}
	}
}

// TestRedactRefuses an image whose machine has run, and names that would lose
// something.
func TestRedactRefuses(t *testing.T) {
	baseDir := need.Base(t)
	need.Tool(t, "debugfs")
	dir := t.TempDir()
	private := strings.TrimSpace(must(t, "build", "--base", baseDir, "--floppy", standalone(t), "--disk", "2G", "--target", "raw", "-o", dir))
	for _, tt := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{private, "-o", private}, 2, "would replace the image itself"},
		{[]string{filepath.Join(baseDir, base.Kernel)}, 2, "does not end in -private"},
		{[]string{filepath.Join(baseDir, base.Kernel), "-o", filepath.Join(dir, "x")}, 1, "has no GPT"},
	} {
		code, _, stderr := builder(t, append([]string{"redact"}, tt.args...)...)
		if code != tt.code || !strings.Contains(stderr, tt.want) {
			t.Errorf("%v: exit %d, %s", tt.args, code, stderr)
		}
	}
	user := layerOf(t, private, "griduser")
	key := filepath.Join(dir, "key")
	if err := os.WriteFile(key, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, "debugfs", "-w", "-R", "write "+key+" state/node.key", fmt.Sprintf("%s?offset=%d", private, user.start))
	code, _, stderr := builder(t, "redact", private)
	if code != 3 || !strings.Contains(stderr, "state/node.key: its machine has run") || !strings.Contains(stderr, "remedy: take what can be shared") {
		t.Errorf("exit %d, %s", code, stderr)
	}
	if _, err := os.Stat(filepath.Join(dir, "grid.raw")); err == nil {
		t.Error("an image was written")
	}
}

// layerOf returns where a partition of a raw image lies.
func layerOf(t *testing.T, image, name string) partition {
	t.Helper()
	for _, p := range partitions(t, image) {
		if p.name == name {
			return p
		}
	}
	t.Fatalf("%s has no partition %s", image, name)
	return partition{}
}
