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
	"gridappliance/overlayd/control/controltest"
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
	writeMaster(t, path, g)
}

// writeMaster writes the floppy of a new grid's first master.
func writeMaster(t *testing.T, path string, g *credential.Grid) {
	t.Helper()
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
		{"no such target", []string{"whois", "-"}, diag.ExitUsage, "want a virtual address"},
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

// serveTestNode runs the control socket of a node in memory.
func serveTestNode(t *testing.T) (socket string) {
	t.Helper()
	return serveStatus(t, controltest.Status())
}

func serveStatus(t *testing.T, s control.Status) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	ln, err := control.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- control.NewServer(&controltest.Node{}, s).Serve(ctx, ln) }()
	t.Cleanup(func() { stop(); <-ended })
	return socket
}

// TestOutput holds what people and scripts read against golden files.
func TestOutput(t *testing.T) {
	socket := serveTestNode(t)
	for _, form := range []string{"txt", "json"} {
		for _, c := range []struct {
			name string
			args []string
			code int
		}{
			{"status", []string{"status"}, diag.ExitDone},
			{"counters", []string{"status", "--counters"}, diag.ExitDone},
			{"peers", []string{"peers"}, diag.ExitDone},
			{"why-relayed", []string{"why", "10.250.0.7"}, diag.ExitDone},
			{"why-direct", []string{"why", "pc"}, diag.ExitDone},
			{"why-idle", []string{"why", controltest.Silent.NodeID}, diag.ExitDone},
			{"ping", []string{"ping", "C250000007.ipop", "--count", "2", "--interval", "1ms"}, diag.ExitDone},
			{"ping-silent", []string{"ping", "10.250.9.9", "--count", "1"}, diag.ExitFailed},
			{"whois", []string{"whois", "10.250.0.2"}, diag.ExitDone},
			{"lookup", []string{"lookup", "service/collector"}, diag.ExitDone},
			{"get", []string{"get", "service/collector"}, diag.ExitDone},
			{"get-none", []string{"get", "service/nothing"}, diag.ExitNothing},
			{"put", []string{"put", "service/web", "tcp 80"}, diag.ExitDone},
			{"withdraw", []string{"put", "service/web", "--withdraw"}, diag.ExitDone},
			{"crawl", []string{"crawl"}, diag.ExitFailed}, // one of three does not agree
		} {
			t.Run(c.name+"."+form, func(t *testing.T) {
				args := append(c.args, "--control", socket)
				if form == "json" {
					args = append(args, "--json")
				}
				code, got, stderr := command(args...)
				if code != c.code || (code == diag.ExitDone) != (stderr == "") {
					t.Fatalf("exit %d, want %d: %s", code, c.code, stderr)
				}
				compareGolden(t, c.name+"."+form, got)
			})
		}
	}
}

// TestStatusInTrouble is what a person sees of a node without an address, and
// with an alarm.
func TestStatusInTrouble(t *testing.T) {
	s := controltest.Status()
	s.State, s.Reason = control.StateJoining, "no first contact has answered: 192.0.2.1:4242"
	s.Address, s.Name, s.HostNames, s.Since = netip.Prefix{}, "", nil, time.Time{}
	s.Lease, s.DNS = control.Lease{}, control.DNS{}
	s.Alarms = []string{"two machines use one node key: one is a copy of the other's disk"}
	code, got, stderr := command("status", "--control", serveStatus(t, s))
	if code != diag.ExitDone {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	compareGolden(t, "status-trouble.txt", got)
}

func compareGolden(t *testing.T, name, got string) {
	t.Helper()
	path := "testdata/" + name + ".golden"
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("output changed (-golden +got):\n%s", diff)
	}
}

// TestAnswersToExitCodes has every kind of answer that is not the one hoped
// for.
func TestAnswersToExitCodes(t *testing.T) {
	socket := serveTestNode(t)
	garbage := filepath.Join(t.TempDir(), "garbage")
	if err := os.WriteFile(garbage, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, args string
		code       int
		says       string
	}{
		{"stranger's address", "whois 10.250.0.9", diag.ExitNothing, "whois 10.250.0.9: nobody known holds it"},
		{"stranger's name", "why nobody", diag.ExitNothing, "why nobody.ipop: nobody known holds it"},
		{"stranger", "ping 10.250.0.9", diag.ExitNothing, "nobody known holds it"},
		{"nothing put", "put service/x --withdraw", diag.ExitNothing, "nothing was put there"},
		{"node's own record", "put name/pc x", diag.ExitFailed, "refused: name records are the node's own"},
		{"not a record", "get thing/x", diag.ExitUsage, "KIND being one of locator, name, service"},
		{"record without its name", "get service", diag.ExitUsage, "want service/NAME"},
		{"neither value nor withdraw", "put service/x", diag.ExitUsage, "want a value, or --withdraw"},
		{"both", "put service/x y --withdraw", diag.ExitUsage, "want a value, or --withdraw"},
		{"short lifetime", "put service/x y --lifetime 1s", diag.ExitUsage, "10s to 1h"},
		{"not a key", "lookup 12", diag.ExitUsage, "32 lower-case hex digits"},
		{"no such file", "publish /none", diag.ExitFailed, "no such file"},
		{"nobody's list", "publish " + garbage, publishCode(diag.ExitInvalid), publishSays("neither a descriptor")},
		{"count", "ping pc --count 0", diag.ExitUsage, "must be above 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, stdout, stderr := command(append(strings.Fields(c.args), "--control", socket)...)
			if code != c.code || !strings.Contains(stderr, c.says) {
				t.Errorf("exit %d, want %d; want %q in:\n%s%s", code, c.code, c.says, stdout, stderr)
			}
		})
	}
}

// publishCode and publishSays are what publish comes to: another user than
// root gets no further than the question who asks.
func publishCode(code int) int {
	if os.Getuid() != 0 {
		return diag.ExitDenied
	}
	return code
}

func publishSays(text string) string {
	if os.Getuid() != 0 {
		return "this needs root"
	}
	return text
}

func TestPublish(t *testing.T) {
	socket := serveTestNode(t)
	descriptor := filepath.Join(t.TempDir(), "GRID.DSC")
	if err := os.WriteFile(descriptor, []byte("-----BEGIN GRID DESCRIPTOR-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]string{"": "published\n", "--json": "{\n  \"published\": true\n}\n"} {
		code, stdout, stderr := command(append(strings.Fields("publish "+descriptor+" "+args), "--control", socket)...)
		if code != publishCode(diag.ExitDone) || code == diag.ExitDone && stdout != want {
			t.Errorf("%q: exit %d: %s%s", args, code, stdout, stderr)
		}
	}
}

func TestMetrics(t *testing.T) {
	code, stdout, stderr := command("metrics", "--control", serveTestNode(t))
	if code != diag.ExitDone || !strings.Contains(stdout, "\noverlayd_drop_no_session_total 3\n") {
		t.Errorf("exit %d:\n%s%s", code, stdout, stderr)
	}
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
