package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gridappliance/credential"
	"gridappliance/floppy"
	"gridappliance/internal/diag"
	"gridappliance/overlayd/control"
)

var update = flag.Bool("update", false, "rewrite golden files")

// command runs overlayd in this process, as a user would.
func command(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(context.Background(), args, strings.NewReader(""), &out, &errs)
	return code, out.String(), errs.String()
}

// masterFloppy writes the floppy of the first master of a new grid.
func masterFloppy(t *testing.T, path string) {
	t.Helper()
	g, err := credential.NewGrid(credential.GridOptions{Name: "archer", Masters: 1, Namespaces: []credential.Namespace{{Name: "archer"}}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	m := g.Material[0]
	writeFloppy(t, path, "master", g,
		floppy.File{Name: floppy.HolderCertFile, Data: m.HolderCert}, floppy.File{Name: floppy.HolderKeyFile, Data: m.HolderKey},
		floppy.File{Name: floppy.NodeKeyFile, Data: m.NodeKey},
		floppy.File{Name: floppy.IssuerCertFile, Data: m.IssuerCert}, floppy.File{Name: floppy.IssuerKeyFile, Data: m.IssuerKey})
}

func writeFloppy(t *testing.T, path, role string, g *credential.Grid, more ...floppy.File) {
	t.Helper()
	files := []floppy.File{{Name: floppy.ConfigFile, Data: []byte("version = 1\n[machine]\nrole = \"" + role + "\"\n")}}
	if g != nil {
		files = append(files, floppy.File{Name: floppy.DescriptorFile, Data: g.Descriptor.Text()})
	}
	image, err := floppy.WriteImage(append(files, more...))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, image, 0o600); err != nil {
		t.Fatal(err)
	}
}

// machineID writes a machine-id for a test's machine.
func machineID(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(strings.Repeat("0123456789abcdef", 2)+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestExitCodes(t *testing.T) {
	dir := t.TempDir()
	standalone, broken, id := filepath.Join(dir, "standalone.img"), filepath.Join(dir, "broken.img"), filepath.Join(dir, "id")
	writeFloppy(t, standalone, "standalone", nil)
	machineID(t, id)
	if err := os.WriteFile(broken, make([]byte, floppy.Size), 0o600); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "sock")
	for _, c := range []struct {
		name string
		args []string
		code int
		says string // on stderr, or stdout for code 0
	}{
		{"help", []string{"--help"}, diag.ExitDone, "EXIT STATUS"},
		{"no verb", []string{}, diag.ExitDone, "Available Commands"},
		{"unknown verb", []string{"walk"}, diag.ExitUsage, `overlayd has no verb "walk"`},
		{"unknown flag", []string{"status", "--colour"}, diag.ExitUsage, "--colour"},
		{"no floppy named", []string{"run"}, diag.ExitUsage, "--floppy FILE"},
		{"no address", []string{"whois"}, diag.ExitUsage, "1 arg"},
		{"not an address", []string{"whois", "pc"}, diag.ExitUsage, "not an address"},
		{"bad endpoint", []string{"run", "--floppy", standalone, "--listen", "4242"}, diag.ExitUsage, "ADDRESS:PORT"},
		{"floppy missing", []string{"run", "--floppy", filepath.Join(dir, "none")}, diag.ExitFailed, "no such file"},
		{"floppy broken", []string{"run", "--floppy", broken}, diag.ExitInvalid, broken},
		{"standalone", []string{"run", "--floppy", standalone, "--machine-id", id, "--control", socket, "--state", dir}, diag.ExitNothing, "standalone"},
		{"no machine-id", []string{"run", "--floppy", standalone, "--machine-id", standalone, "--control", socket, "--state", dir}, diag.ExitFailed, "first boot"},
		{"no daemon", []string{"status", "--control", socket}, diag.ExitFailed, "overlayd is not running"},
		{"no daemon to ask", []string{"whois", "10.250.0.2", "--control", socket}, diag.ExitFailed, "overlayd is not running"},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, stdout, stderr := command(c.args...)
			says := stderr
			if c.code == diag.ExitDone {
				says = stdout
			}
			if code != c.code || !strings.Contains(says, c.says) {
				t.Errorf("exit %d, want %d; want %q in:\n%s", code, c.code, c.says, says)
			}
		})
	}
}

func TestKeygen(t *testing.T) {
	code, stdout, stderr := command("keygen")
	if code != diag.ExitDone {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	key, err := credential.ParseKey([]byte(stdout))
	if err != nil {
		t.Fatal(err)
	}
	if want := "node ID " + credential.NodeIDOf(&key.PublicKey).String() + "\n"; stderr != want {
		t.Errorf("stderr %q, want %q", stderr, want)
	}
	if _, again, _ := command("keygen"); again == stdout {
		t.Error("two keys are the same")
	}
}

// TestOutput holds what people and scripts read against golden files.
func TestOutput(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ln, err := control.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- control.NewServer(fakeNode{}, runningStatus()).Serve(ctx, ln) }()
	defer func() { stop(); <-ended }()

	for name, args := range map[string][]string{
		"status.txt":  {"status"},
		"status.json": {"status", "--json"},
		"whois.txt":   {"whois", "10.250.0.2"},
		"whois.json":  {"whois", "10.250.0.2", "--json"},
	} {
		t.Run(name, func(t *testing.T) {
			code, got, stderr := command(append(args, "--control", path)...)
			if code != diag.ExitDone || stderr != "" {
				t.Fatalf("exit %d: %s", code, stderr)
			}
			golden := "testdata/" + name + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("output changed (-golden +got):\n%s", diff)
			}
		})
	}
	if code, _, stderr := command("whois", "10.250.0.9", "--control", path); code != diag.ExitNothing {
		t.Errorf("whois of a stranger: exit %d, want %d: %s", code, diag.ExitNothing, stderr)
	}
}

var address = netip.MustParsePrefix("10.250.0.2/16")

func runningStatus() control.Status {
	begin := time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)
	return control.Status{
		State: control.StateRunning, Version: "0.1.0", Grid: "archer", Namespace: "archer",
		NodeID: "0102030405060708090a0b0c0d0e0f10", Role: "master", User: "master-1", Group: "infra",
		Device: "tapipop", Address: address, Name: "C250000002.ipop", Since: begin,
		Masters: []control.Master{{Name: "C250000002.ipop", Address: address.Addr()}}, Descr: 1,
		Cert: control.Certificate{Serial: "2a", NotBefore: begin, NotAfter: begin.Add(24 * time.Hour)},
	}
}

type fakeNode struct{}

func (fakeNode) Counters() map[string]uint64 {
	return map[string]uint64{"drop/no-session": 3, "rx/datagrams": 4}
}

func (fakeNode) Whois(_ context.Context, addr netip.Addr) (control.Whois, error) {
	if addr != address.Addr() {
		return control.Whois{}, control.ErrUnknown
	}
	s := runningStatus()
	return control.Whois{Address: addr, Name: s.Name, NodeID: s.NodeID, User: s.User, Group: s.Group, Role: s.Role}, nil
}

func TestLogIsStructuredUnderSystemd(t *testing.T) {
	var out bytes.Buffer
	t.Setenv("JOURNAL_STREAM", "8:1234")
	newLogger(&out).Info("node started", "node", "01")
	var line map[string]string
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	if diff := cmp.Diff(map[string]string{"level": "INFO", "msg": "node started", "node": "01"}, line); diff != "" {
		t.Errorf("line (-want +got):\n%s", diff)
	}
}

func TestMachineInstanceHidesTheMachineID(t *testing.T) {
	dir := t.TempDir()
	a := filepath.Join(dir, "a")
	machineID(t, a)
	got, err := machineInstance(a)
	if err != nil || len(got) != 32 || strings.Contains(got, "0123456789abcdef") {
		t.Errorf("machineInstance = %q, %v", got, err)
	}
	b := filepath.Join(dir, "b")
	if err := os.WriteFile(b, []byte(strings.Repeat("f", 32)), 0o644); err != nil {
		t.Fatal(err)
	}
	if other, err := machineInstance(b); err != nil || other == got {
		t.Errorf("another machine's instance %q, %v", other, err)
	}
}
