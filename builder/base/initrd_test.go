package base

import (
	"archive/tar"
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gridappliance/internal/need"
	"gridappliance/internal/sysrun"
)

// TestCPIO lets cpio(1) read what the writer wrote.
func TestCPIO(t *testing.T) {
	cpio := need.Tool(t, "cpio")
	var b bytes.Buffer
	c := &cpioWriter{w: &b}
	c.dir("lib")
	for n := range 5 { // every padding
		c.file("lib/"+strings.Repeat("f", n+1), 0o644, []byte(strings.Repeat("x", n)))
	}
	c.file("init", 0o755, []byte("#!"))
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := sysrun.Run(t.Context(), sysrun.Command{Name: cpio, Args: []string{"-tv", "--quiet", "-n"}, Stdin: &b,
		Env: []string{"TZ=UTC", "LC_ALL=C"}})
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "cpio.golden", string(r.Stdout))
}

func TestCPIOBytes(t *testing.T) {
	var b bytes.Buffer
	c := &cpioWriter{w: &b}
	c.char("dev/console", 0o600, 5, 1)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	want := "070701" + "00000001" + "00002180" + strings.Repeat("00000000", 2) + "00000001" + strings.Repeat("00000000", 4) +
		"00000005" + "00000001" + "0000000C" + "00000000" + "dev/console\x00\x00\x00" +
		"070701" + strings.Repeat("00000000", 4) + "00000001" + strings.Repeat("00000000", 6) + "0000000B" + "00000000" + "TRAILER!!!\x00\x00\x00\x00"
	if d := cmp.Diff(want, b.String()); d != "" {
		t.Error(d)
	}
}

// testKernel is a tree with a kernel's module index.
func testKernel(files map[string]string) *image {
	img := &image{entries: map[string]*entry{}}
	img.addFile("boot/vmlinuz-6.1", 0o644, nil)
	for n, text := range files {
		img.addFile("usr/lib/modules/6.1/"+n, 0o644, []byte(text))
	}
	return img
}

func TestModuleClosure(t *testing.T) {
	img := testKernel(map[string]string{
		"modules.dep": "kernel/fs/ext4.ko.xz: kernel/fs/jbd2.ko.xz kernel/lib/mb-cache.ko.xz\nkernel/fs/jbd2.ko.xz:\nkernel/lib/mb-cache.ko.xz:\n" +
			"kernel/c/crc32c_generic.ko.xz:\nkernel/v/virtio-blk.ko.xz:\n",
		"modules.builtin": "kernel/drivers/virtio/virtio_pci.ko\n",
		"modules.alias":   "# Aliases\nalias virtio:d2v* virtio_blk\n",
		"modules.softdep": "softdep jbd2 pre: crc32c-generic post: other\nsoftdep ext4 pre: not_there\n",
	})
	version, err := img.kernelVersion()
	if err != nil {
		t.Fatal(err)
	}
	m, err := readModuleIndex(img, version)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name  string
		names []string
		want  []string
		err   string
	}{
		{"with softdep", []string{"ext4"}, []string{"crc32c_generic", "ext4", "jbd2", "mb_cache"}, ""},
		{"dash and underscore", []string{"virtio-blk"}, []string{"virtio_blk"}, ""},
		{"built in", []string{"virtio_pci"}, []string{}, ""},
		{"unknown", []string{"nothing"}, nil, "the kernel has no module nothing"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := m.closure(tt.names)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestKernelVersion(t *testing.T) {
	img := testKernel(nil)
	img.addFile("boot/vmlinuz-6.2", 0o644, nil)
	if v, err := img.kernelVersion(); err == nil {
		t.Errorf("%q of two kernels", v)
	}
}

func TestParseModules(t *testing.T) {
	modules, preload := parseModules([]byte("# c\n!ext4\nvirtio_blk # why\n\n"))
	if d := cmp.Diff([]string{"ext4", "virtio_blk"}, modules); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"ext4"}, preload); d != "" {
		t.Error(d)
	}
}

func TestModuleCompression(t *testing.T) {
	img := &image{entries: map[string]*entry{}}
	img.addFile("a.ko", 0o644, []byte("plain"))
	img.addFile("b.ko.xz", 0o644, []byte("not xz"))
	img.addFile("c.ko.zip", 0o644, nil)
	if b, err := img.module("a.ko"); err != nil || string(b) != "plain" {
		t.Errorf("%q, %v", b, err)
	}
	for _, n := range []string{"b.ko.xz", "c.ko.zip", "none.ko"} {
		if _, err := img.module(n); err == nil {
			t.Errorf("%s: unpacked", n)
		}
	}
}

func TestOSRelease(t *testing.T) {
	got := string(osRelease([]byte("PRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\nID=debian\n"), epoch))
	want := "PRETTY_NAME=\"Grid Appliance on Debian GNU/Linux 13 (trixie)\"\nID=debian\n" +
		"VARIANT=\"Grid Appliance\"\nVARIANT_ID=grid\nIMAGE_ID=grid-appliance\nIMAGE_VERSION=20260102\n"
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// TestAddLinkOverDirectory: replacing a directory by a link takes its content away.
func TestAddLinkOverDirectory(t *testing.T) {
	img := &image{entries: map[string]*entry{}}
	img.addFile("a/b/c", 0o644, nil)
	img.addLink("a/b", "/x")
	if img.entries["a/b/c"] != nil || img.entries["a/b"].Typeflag != tar.TypeSymlink {
		t.Error("the content stayed")
	}
}
