package qemu

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gridappliance/internal/need"
	"gridappliance/internal/sysrun"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// hello is a boot sector that writes "hello\n" to COM1 and halts:
//
//	xor ax,ax; mov ds,ax; mov dx,0x3f8; mov si,0x7c15
//	next: lodsb; test al,al; jz stop; out dx,al; jmp next
//	stop: hlt; jmp stop
//	"hello\n\0"
func hello(t *testing.T) string {
	t.Helper()
	b := make([]byte, 1<<20)
	copy(b, "\x31\xc0\x8e\xd8\xba\xf8\x03\xbe\x15\x7c\xac\x84\xc0\x74\x03\xee\xeb\xf8\xf4\xeb\xfdhello\n")
	b[510], b[511] = 0x55, 0xaa
	path := filepath.Join(t.TempDir(), "disk, with a comma.raw")
	if err := os.WriteFile(path, b, 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

func start(t *testing.T, ctx context.Context, c Config) *Machine {
	t.Helper()
	need.Tool(t, "qemu-system-x86_64")
	m, err := Start(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

// TestMachine boots a real machine, with the disk on every bus.
func TestMachine(t *testing.T) {
	for _, bus := range []Bus{Virtio, IDE, AHCI, PVSCSI} {
		t.Run(string(bus), func(t *testing.T) {
			var live bytes.Buffer
			m := start(t, t.Context(), Config{Disk: hello(t), Disks: []string{hello(t)}, Bus: bus, Memory: 64, Live: &live,
				UUID: "11111111-2222-3333-4444-555555555555", NICs: []NIC{{}, {Multicast: "230.0.0.1:4711"}},
				SMBIOS: []string{"a,b"}, FirmwareConfig: map[string][]byte{"opt/grid": []byte("x")}})
			if _, err := m.Console.WaitFor(regexp.MustCompile("hello\n"), 30*time.Second); err != nil {
				t.Fatal(err)
			}
			m.Close()
			if !strings.Contains(live.String(), "hello") {
				t.Errorf("live output: %q", live.String())
			}
			if _, err := os.Stat(m.dir); !os.IsNotExist(err) {
				t.Errorf("the scratch folder is still there: %v", err)
			}
			if _, err := m.Console.WaitFor(regexp.MustCompile("more"), time.Minute); !errors.Is(err, ErrEnded) {
				t.Errorf("waiting for a machine that ended: %v", err)
			}
		})
	}
}

// TestFloppyDrive: floppies go in and out of a running machine, and the
// firmware can be told to try the floppy first.
func TestFloppyDrive(t *testing.T) {
	disk := hello(t)
	floppy := make([]byte, 1_474_560)
	sector, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	copy(floppy, bytes.Replace(sector[:512], []byte("hello"), []byte("float"), 1))
	path := filepath.Join(t.TempDir(), "floppy.img")
	if err := os.WriteFile(path, floppy, 0o666); err != nil {
		t.Fatal(err)
	}
	m := start(t, t.Context(), Config{Disk: disk, Floppy: path, BootFloppy: true, Memory: 64})
	if _, err := m.Console.WaitFor(regexp.MustCompile("float"), 30*time.Second); err != nil {
		t.Fatal(err)
	}
	if err := m.EjectFloppy(); err != nil {
		t.Error(err)
	}
	if err := m.Reset(); err != nil {
		t.Error(err)
	}
	if _, err := m.Console.WaitFor(regexp.MustCompile("hello"), 30*time.Second); err != nil {
		t.Fatal(err)
	}
	if err := m.InsertFloppy(path); err != nil {
		t.Error(err)
	}
	if err := m.InsertFloppy(path + "x"); err == nil {
		t.Error("a missing floppy was inserted")
	}
	if err := m.Shutdown(time.Second); err == nil || !strings.Contains(err.Error(), "still running") {
		t.Errorf("a guest that ignores the power button: %v", err)
	}
	select {
	case <-m.Done():
	default:
		t.Error("the machine runs after Shutdown")
	}
}

func TestContextEndsMachine(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	m := start(t, ctx, Config{Disk: hello(t), Memory: 64})
	if _, err := m.Console.WaitFor(regexp.MustCompile("hello"), 30*time.Second); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := m.Wait(); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v", err)
	}
}

func TestStartRefuses(t *testing.T) {
	need.Tool(t, "qemu-system-x86_64")
	for name, c := range map[string]Config{
		"no disk":      {},
		"missing disk": {Disk: "/nowhere/x.raw"},
		"firmware":     {Disk: hello(t), Firmware: "coreboot"},
		"bus":          {Disk: hello(t), Bus: "scsi"},
	} {
		if m, err := Start(t.Context(), c); err == nil {
			m.Close()
			t.Errorf("%s: started", name)
		}
	}
	// What only QEMU can see is in the error of Wait.
	m := start(t, t.Context(), Config{Disk: hello(t), Floppy: "/nowhere/f.img"})
	if err := m.Wait(); err == nil || !strings.Contains(err.Error(), "/nowhere/f.img") {
		t.Errorf("error = %v", err)
	}
}

func TestArguments(t *testing.T) {
	dir := t.TempDir()
	raw := filepath.Join(dir, "a.raw")
	qcow := filepath.Join(dir, "b,c.qcow2")
	vmdk, vdi := filepath.Join(dir, "d.vmdk"), filepath.Join(dir, "e.vdi")
	for path, content := range map[string]string{vmdk: "KDMV", vdi: strings.Repeat("x", 64) + "\x7f\x10\xda\xbe", raw: "x", qcow: "QFI\xfb\x00\x00\x00\x03"} {
		if err := os.WriteFile(path, []byte(content), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	tests := map[string]struct {
		accel Accelerator
		c     Config
	}{
		"default": {TCG, Config{Disk: raw}},
		"kernel":  {TCG, Config{Disk: vmdk, Kernel: "vmlinuz", Initrd: "initrd.img", CommandLine: "console=hvc0 quiet", Bus: PVSCSI, NICs: []NIC{{Model: "vmxnet3"}}}},
		"vdi":     {TCG, Config{Disk: vdi}},
		"full": {KVM, Config{Disk: qcow, Persistent: true, Bus: AHCI, Disks: []string{raw}, CDROM: "cd.iso", Floppy: "f.img",
			BootFloppy: true, Memory: 512, CPUs: 1, UUID: "u", Clock: time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC),
			SMBIOS: []string{"s"}, FirmwareConfig: map[string][]byte{"opt/b": nil, "opt/a": nil},
			NICs: []NIC{{Open: true}, {}, {Multicast: "230.0.0.1:4000", MAC: "52:54:00:00:00:01"}}}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			args, err := tt.c.arguments(tt.accel, dir)
			if err != nil {
				t.Fatal(err)
			}
			got := strings.ReplaceAll(strings.Join(args, "\n")+"\n", dir, "DIR")
			file := "testdata/" + name + ".golden"
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o666); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// shell connects a Console to a shell on this machine, on a terminal of its
// own as a guest's would be.
func shell(t *testing.T) *Console {
	t.Helper()
	script := need.Tool(t, "script")
	in, input, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c := newConsole(input, nil)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer c.end(nil)
		sysrun.Run(t.Context(), sysrun.Command{Name: script, Args: []string{"-q", "-c", "env PS1='me@host:~$ ' bash --norc --noprofile", "/dev/null"}, Stdin: in, Stdout: c, Tied: true})
	})
	t.Cleanup(func() { input.Close(); wg.Wait(); in.Close() })
	return c
}

func TestRun(t *testing.T) {
	c := shell(t)
	if err := c.Login(20 * time.Second); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		command, output string
		exit            int
	}{
		{"echo one; echo two >&2", "one\ntwo\n", 0},
		{"false", "", 1},
		{"printf 'no newline'", "no newline", 0},
		{"exit 7", "", 7},
		{"echo '@@4>0;'", "@@4>0;\n", 0}, // looks like another command's marker
		{"for i in 1 2 3; do echo $i; done\necho done", "1\n2\n3\ndone\n", 0},
		{"cat", "", 0}, // reads nothing rather than the next command
		{"printf '\\033[1mbold\\033[0m'", "bold", 0},
		{"echo " + strings.Repeat("x", 1000), strings.Repeat("x", 1000) + "\n", 0},
	}
	for _, tt := range tests {
		output, exit, err := c.Run(tt.command, 10*time.Second)
		if err != nil || output != tt.output || exit != tt.exit {
			t.Errorf("%q: %q, %d, %v; want %q, %d", tt.command, output, exit, err, tt.output, tt.exit)
		}
	}
	if _, _, err := c.Run("sleep 5", 50*time.Millisecond); err == nil {
		t.Error("no error from a command that goes on")
	}
}

func TestWaitFor(t *testing.T) {
	c := newConsole(io.Discard, nil)
	go func() {
		for _, b := range []byte("one\r\n\x1b[31mtwo\x1b[0m three\r\n") {
			c.Write([]byte{b})
		}
	}()
	groups, err := c.WaitFor(regexp.MustCompile(`t(w)(x)?o`), 10*time.Second)
	if diff := cmp.Diff([]string{"two", "w", ""}, groups); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	if _, err := c.WaitFor(regexp.MustCompile(`three`), 10*time.Second); err != nil {
		t.Error(err)
	}
	_, err = c.WaitFor(regexp.MustCompile(`two`), 20*time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), "the last lines:\none\ntwo three") {
		t.Errorf("a wait went backwards, or its error has no last lines: %v", err)
	}
	c.Write([]byte("two"))
	c.Skip()
	if _, err := c.WaitFor(regexp.MustCompile(`two`), 20*time.Millisecond); err == nil {
		t.Error("Skip did not skip")
	}
}

func TestWaitForEndsAtAPanic(t *testing.T) {
	c := newConsole(io.Discard, nil)
	io.WriteString(c, "ready\r\n[    4.2] ---[ end Kernel panic - not syncing: Fatal exception in interrupt ]---\r\n")
	if _, err := c.WaitFor(regexp.MustCompile(`ready`), 10*time.Second); err != nil {
		t.Errorf("what came before the panic is not found: %v", err)
	}
	if _, err := c.WaitFor(regexp.MustCompile(`login`), 10*time.Second); !errors.Is(err, ErrPanic) {
		t.Errorf("got %v, want ErrPanic", err)
	}
}
