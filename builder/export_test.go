package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gridappliance/builder/layer"
	"gridappliance/internal/need"
)

// TestExport does on a system with the user partition of a real image what a
// person does, and exports it twice: from the running system, and from the
// image when it is off. Both take the same, and it shows in a new image.
func TestExport(t *testing.T) {
	baseDir := need.Container(t)
	need.Tool(t, "sgdisk", "mount")
	image := strings.TrimSpace(must(t, "build", "--base", baseDir, "--no-floppy", "--disk", "2G", "--target", "raw", "-o", t.TempDir()))
	run := t.TempDir()
	user, system := layerOf(t, image, "griduser"), layerOf(t, image, "gridbase")
	for _, d := range []string{"user", "layer"} {
		if err := os.Mkdir(filepath.Join(run, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	userDir := filepath.Join(run, "user")
	tool(t, "mount", "-t", "ext4", "-o", fmt.Sprintf("loop,offset=%d,sizelimit=%d", user.start, user.size), image, userDir)
	t.Cleanup(func() { unix.Unmount(userDir, unix.MNT_DETACH) })
	lower := mountAt(t, image, system.start, system.size)
	if err := os.Symlink(lower, filepath.Join(run, "layer", "gridbase")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(run, "layers"), []byte("changes /dev/x ext4\ngridbase /dev/x squashfs\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := stacked(t, userDir, lower)
	s.run("alias sudo=; HOME=/home/griduser; " + changes)
	s.unmount()

	c, err := machineChanges(run, filepath.Join(run, "stamp.json"))
	if err != nil {
		t.Fatal(err)
	}
	choices, err := layer.Choose(c, nil)
	if err != nil {
		t.Fatal(err)
	}
	running, off := filepath.Join(t.TempDir(), "mine.module"), filepath.Join(t.TempDir(), "mine.module")
	if err := layer.Pack(running, layer.Manifest{Name: "mine", Version: "1"}, "this machine", layer.Export(c, choices), c.Below, time.Unix(0, 0).UTC()); err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(userDir, 0); err != nil {
		t.Fatal(err)
	}
	checkExport(t, must(t, "module", "export", "--image", image, "-o", off))
	if a, b := sum(t, running), sum(t, off); a != b {
		t.Errorf("exported from the running system and from the image:\n%s\n%s", tool(t, "unsquashfs", "-lln", running), tool(t, "unsquashfs", "-lln", off))
	}
	if code, _, stderr := builder(t, "redact", image, "-o", filepath.Join(t.TempDir(), "x.raw")); code != 3 || !strings.Contains(stderr, "its machine has run") {
		t.Errorf("redact of a machine that has run: exit %d, %s", code, stderr)
	}
	showsInANewImage(t, baseDir, greeter(t, baseDir), off)
}
