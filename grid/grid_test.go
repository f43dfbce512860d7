package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gridappliance/credential"
	"gridappliance/internal/diag"
	"gridappliance/overlayd/control"
	"gridappliance/overlayd/control/controltest"
)

// world is a worker that works, of which a test breaks something.
type world struct {
	t      *testing.T
	m      *machine
	tools  map[string]string // by the program's name; absent: it fails
	ran    []string          // programs, with their arguments
	uid    int
	extra  []string // arguments
	said   string   // standard error of the last run
	report report
	names  map[string][]string
	free   uint64
	now    time.Time
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, free: 90 << 30, now: time.Now(),
		tools: map[string]string{
			"condor_who":    "IsReady = true",
			"condor_status": "C250000002.ipop Unclaimed 1\nC250000002.ipop Claimed 1\nC250000007.ipop Unclaimed 4",
			"condor_q":      "2\n1\n1\n5",
			"timedatectl":   "yes",
		},
		report: report{State: "ready", Role: "client", Grid: "archer", Group: "physics", Name: "C250000002.ipop", Address: "10.250.0.2", Source: "/dev/fd0"},
		names:  map[string][]string{"C250000002.ipop": {"10.250.0.2"}, "C250000007.ipop": {"10.250.0.7"}},
	}
	w.m = &machine{root: t.TempDir(), overlay: control.Dial(w.overlayd(controltest.Status())),
		tool: func(_ context.Context, name string, args ...string) (string, error) {
			w.ran = append(w.ran, name+" "+strings.Join(args, " "))
			if out, ok := w.tools[name]; ok {
				return out, nil
			}
			return "", errors.New("run " + name + ": exit status 1")
		},
		resolve: func(_ context.Context, host string) ([]string, error) {
			if a, ok := w.names[host]; ok {
				return a, nil
			}
			return nil, errors.New("lookup " + host + ": no such host")
		},
		free: func(string) (uint64, uint64, error) { return w.free, 100 << 30, nil },
		now:  func() time.Time { return w.now },
		uid:  func() int { return w.uid },
	}
	w.put("usr/lib/grid/build-time", "2026-01-01T00:00:00Z\n")
	w.put("etc/condor/grid/node.crt", w.certificate())
	return w
}

// overlayd serves a status and returns the socket.
func (w *world) overlayd(s control.Status) string {
	w.t.Helper()
	s.Masters = []control.Master{{Name: "C250000007.ipop", Address: netip.MustParseAddr("10.250.0.7")}, {Name: "C250000002.ipop", Address: s.Address.Addr()}}
	path := filepath.Join(w.t.TempDir(), "sock")
	ln, err := control.Listen(path)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); control.NewServer(&controltest.Node{}, s).Serve(ctx, ln) }()
	w.t.Cleanup(func() { cancel(); <-done })
	return path
}

func (w *world) put(name, text string) {
	w.t.Helper()
	path := filepath.Join(w.m.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) certificate() string {
	w.t.Helper()
	grid, err := credential.NewGrid(credential.GridOptions{Name: "archer", Masters: 1, Namespaces: []credential.Namespace{{Name: "archer"}}}, w.now)
	if err != nil {
		w.t.Fatal(err)
	}
	key, err := credential.NewKey()
	if err != nil {
		w.t.Fatal(err)
	}
	chain, err := credential.IssueCondor(grid.Material[0].IssuerCert, grid.Material[0].IssuerKey, credential.CondorRequest{
		Grid: "archer", Group: "physics", Role: "client", Name: "C250000002.ipop", Key: &key.PublicKey, Now: w.now})
	if err != nil {
		w.t.Fatal(err)
	}
	return string(chain)
}

// run runs a verb.
func (w *world) run(args ...string) (out string, exit int) {
	w.t.Helper()
	text, err := json.Marshal(w.report)
	if err != nil {
		w.t.Fatal(err)
	}
	if w.report.State != "" {
		w.put("run/grid/status.json", string(text))
	}
	var stdout, stderr strings.Builder
	c := newRootCommand(w.m)
	c.SetArgs(args)
	c.SetOut(&stdout)
	c.SilenceErrors, c.SilenceUsage = true, true
	err = c.ExecuteContext(w.t.Context())
	exit = diag.Report(&stderr, "grid", err)
	w.said = stderr.String()
	return stdout.String(), exit
}

func TestStatus(t *testing.T) {
	w := newWorld(t)
	out, exit := w.run("status")
	want := "machine    C250000002.ipop, 10.250.0.2\nrole       client\ngrid       archer, group physics\nstate      ready\n" +
		"pool       2 machines, 6 processors, 1 of them busy\nyour jobs  1 running, 2 idle, 1 held\n"
	if diff := cmp.Diff(want, out); diff != "" || exit != diag.ExitDone {
		t.Errorf("exit %d (-want +got):\n%s", exit, diff)
	}
	delete(w.tools, "condor_status")
	if out, exit := w.run("status"); exit != diag.ExitDone || !strings.Contains(out, "run condor_status: exit status 1") {
		t.Errorf("without a collector: exit %d, %s", exit, out)
	}
	w.report = report{}
	os.RemoveAll(filepath.Join(w.m.root, "run"))
	if _, exit := w.run("status"); exit != diag.ExitNothing {
		t.Errorf("before firstboot: exit %d", exit)
	}
}

func TestUsage(t *testing.T) {
	w := newWorld(t)
	w.tools["condor_userprio"] = "griduser@chemistry 0.0 1800.0 1795737514\ngriduser@physics 2.0 7245.0 1795737600"
	out, exit := w.run("usage")
	want := "GROUP      USER      PROCESSORS NOW  HOURS  LAST\n" +
		"physics    griduser  2               2.01   2026-11-27 00:00\n" +
		"chemistry  griduser  0               0.50   2026-11-26 23:58\n"
	if diff := cmp.Diff(want, out); diff != "" || exit != diag.ExitDone {
		t.Errorf("exit %d (-want +got):\n%s", exit, diff)
	}
	var all []usage
	if out, _ := w.run("usage", "--json"); json.Unmarshal([]byte(out), &all) != nil || len(all) != 2 || all[1].Hours != 0.5 {
		t.Errorf("JSON: %s", out)
	}
	for tools, says := range map[string]string{"": "nobody has used the pool yet\n", "griduser@physics undefined 1 1": ""} {
		w.tools["condor_userprio"] = tools
		if out, exit := w.run("usage"); out != says || (exit == diag.ExitDone) != (says != "") {
			t.Errorf("%q: exit %d, %s", tools, exit, out)
		}
	}
}

// TestDrain looks at what condor_drain is told; condorconf's tests look at what
// it does.
func TestDrain(t *testing.T) {
	const name = "C250000002.ipop"
	for _, c := range []struct {
		slots, args string
		says, told  string
	}{
		{"Unclaimed false", "", name + " takes no new jobs; none runs\n", "-graceful -reason grid drain " + name},
		{"Unclaimed false\nClaimed false", "", name + " takes no new jobs; one still runs\n", "-graceful -reason grid drain " + name},
		{"Unclaimed false\nClaimed false\nPreempting false", "--now", name + " takes no new jobs; 2 still run\n", "-quick -reason grid drain " + name},
		{"Drained true\nClaimed true", "", name + " takes no new jobs; one still runs\n", ""},
		{"Drained true\nClaimed true", "--now", name + " takes no new jobs; one still runs\n", "-cancel " + name + "; -quick -reason grid drain " + name},
		{"Drained true", "--wait", name + " takes no new jobs; none runs\n", ""},
		{"Drained true", "--off", name + " takes jobs\n", "-cancel " + name},
		{"Unclaimed false", "--off", name + " takes jobs\n", ""},
	} {
		w := newWorld(t)
		w.tools["condor_status"], w.tools["condor_drain"] = c.slots, ""
		out, exit := w.run(append([]string{"drain"}, strings.Fields(c.args)...)...)
		var told []string
		for _, r := range w.ran {
			if args, ok := strings.CutPrefix(r, "condor_drain "); ok {
				told = append(told, args)
			}
		}
		if exit != diag.ExitDone || out != c.says || strings.Join(told, "; ") != c.told {
			t.Errorf("%q, drain %s: exit %d, told %q, want %q; says %q, want %q", c.slots, c.args, exit, told, c.told, out, c.says)
		}
	}
	for says, change := range map[string]func(*world){
		"sudo":              func(w *world) { w.uid = 1000 },
		"a master":          func(w *world) { w.report.Role = "master" },
		"a grid of one":     func(w *world) { w.report.Role = "standalone" },
		"takes no jobs yet": func(w *world) { w.report.State, w.report.Name = "joining", "" },
		"no slot":           func(w *world) { w.tools["condor_status"] = "" },
		"says":              func(w *world) { w.tools["condor_status"] = "Unclaimed" },
		"exit status 1":     func(w *world) { delete(w.tools, "condor_drain") },
		"firstboot has not": func(w *world) { w.report = report{} },
		"off now":           func(w *world) { w.extra = []string{"--off", "--now"} },
		"off wait":          func(w *world) { w.extra = []string{"--off", "--wait"} },
	} {
		w := newWorld(t)
		w.tools["condor_status"], w.tools["condor_drain"] = "Unclaimed false", ""
		change(w)
		if out, exit := w.run(append([]string{"drain"}, w.extra...)...); exit == diag.ExitDone || out != "" || !strings.Contains(w.said, says) {
			t.Errorf("want %q: exit %d, %q, %q", says, exit, out, w.said)
		}
	}
}

// TestDoctor breaks one thing at a time: doctor finds it, says what to do, and
// calls nothing else wrong.
func TestDoctor(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*world)
		check  string // that is wrong; "" for none
		says   string
	}{
		"all is well":            {func(*world) {}, "", ""},
		"floppy refused":         {func(w *world) { w.report = report{State: "refused", Detail: "GRID.TML:3:1: unknown key"} }, "floppy", "GRID.TML:3:1"},
		"no floppy":              {func(w *world) { w.report = report{State: "waiting"} }, "floppy", "attach one"},
		"clock before the image": {func(w *world) { w.put("usr/lib/grid/build-time", "2099-01-01T00:00:00Z\n") }, "clock", "chrony"},
		"disk full":              {func(w *world) { w.free = 1 << 30 }, "disk", "1024 MiB free"},
		"overlayd is not there":  {func(w *world) { w.m.overlay = control.Dial(w.m.root + "/none") }, "overlay", "journalctl -u overlayd"},
		"no address": {func(w *world) {
			s := controltest.Status()
			s.State, s.Address, s.Reason = control.StateJoining, netip.Prefix{}, "no first contact has answered"
			w.m.overlay = control.Dial(w.overlayd(s))
		}, "overlay", "no first contact has answered"},
		"an alarm": {func(w *world) {
			s := controltest.Status()
			s.Alarms = []string{"two live instances of one witness"}
			w.m.overlay = control.Dial(w.overlayd(s))
		}, "alarms", "notice   alarms      two live instances"},
		"name of a master": {func(w *world) { w.names["C250000007.ipop"] = []string{"192.0.2.1"} }, "names", "192.0.2.1"},
		"no certificate":   {func(w *world) { os.Remove(filepath.Join(w.m.root, "etc/condor/grid/node.crt")) }, "certificate", "condorconf write"},
		"certificate ended": {func(w *world) {
			w.now = w.now.Add(30 * time.Hour)
		}, "certificate", "until"},
		"HTCondor is down":     {func(w *world) { delete(w.tools, "condor_who") }, "htcondor", "systemctl status condor"},
		"HTCondor is starting": {func(w *world) { w.tools["condor_who"] = "IsReady = false" }, "htcondor", "still starting"},
		"not in the pool":      {func(w *world) { w.tools["condor_status"] = "" }, "pool", "does not know C250000002.ipop"},
		"no collector":         {func(w *world) { delete(w.tools, "condor_status") }, "pool", "the master's"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c.change(w)
			text, exit := w.run("doctor")
			out, again := w.run("doctor", "--json")
			var found []Finding
			if err := json.Unmarshal([]byte(out), &found); err != nil {
				t.Fatal(err)
			}
			var wrong []string
			for _, f := range found {
				if f.Verdict != Good {
					wrong = append(wrong, f.Check)
				}
				if f.Verdict == Wrong && f.Remedy == "" {
					t.Errorf("%s is wrong (%s), and nothing says what to do", f.Check, f.Detail)
				}
			}
			if strings.Join(wrong, " ") != c.check || !strings.Contains(text, c.says) {
				t.Errorf("wrong: %v, want %q; want %q in\n%s", wrong, c.check, c.says, text)
			}
			if want := map[bool]int{true: diag.ExitDone, false: diag.ExitFailed}[c.check == "" || c.check == "alarms"]; exit != want || again != want {
				t.Errorf("exit %d and %d, want %d", exit, again, want)
			}
		})
	}
}
