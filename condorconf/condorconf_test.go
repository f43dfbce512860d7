package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gridappliance/condorconf/pool"
	"gridappliance/condorconf/tree"
	"gridappliance/credential"
	"gridappliance/floppy"
	"gridappliance/overlayd/control"
)

// box is a root with a floppy and overlayd's status beside it, for what needs
// no HTCondor.
type box struct {
	t                    *testing.T
	root, floppy, status string
}

func newBox(t *testing.T) *box {
	t.Helper()
	dir := t.TempDir()
	b := &box{t: t, root: filepath.Join(dir, "root"), floppy: filepath.Join(dir, "floppy.img"), status: filepath.Join(dir, "status.json")}
	passwd := "root:x:0:0::/root:/bin/sh\n"
	for n := range 128 {
		passwd += fmt.Sprintf("slot%d:x:%d:%[2]d::/:/bin/false\n", n+1, 900+n)
	}
	if err := os.MkdirAll(filepath.Join(b.root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.root, "etc/passwd"), []byte(passwd), 0o644); err != nil {
		t.Fatal(err)
	}
	return b
}

// insert changes the floppy and what overlayd says of it.
func (b *box) insert(grid *credential.Grid, role floppy.Role, address string) {
	b.t.Helper()
	group, user, files := "physics", "alice", []floppy.File(nil)
	switch role {
	case floppy.RoleMaster:
		n := slices.IndexFunc(grid.Material, func(m credential.MasterMaterial) bool { return m.Address.String() == address })
		group, user, files = "infra", grid.Material[n].Name, masterFiles(grid, n)
	case floppy.RoleWorker, floppy.RoleClient:
		files = holderFiles(b.t, grid, role, group, user)
	}
	writeFloppy(b.t, b.floppy, fmt.Sprintf("version = 1\n[machine]\nrole = %q\n", role), files)
	if files != nil {
		writeStatus(b.t, b.status, memberStatus(grid, role, group, user, netip.MustParseAddr(address)))
	}
}

func (b *box) run(verb string, more ...string) (code int, stdout, stderr string) {
	b.t.Helper()
	var out, errs strings.Builder
	args := append([]string{verb, "--root", b.root, "--floppy", b.floppy, "--status", b.status}, more...)
	code = run(b.t.Context(), args, strings.NewReader(""), &out, &errs)
	return code, out.String(), errs.String()
}

func (b *box) write() Result {
	b.t.Helper()
	code, stdout, stderr := b.run("write", "--json")
	if code != 0 {
		b.t.Fatalf("write: exit %d: %s", code, stderr)
	}
	var r Result
	if err := json.Unmarshal([]byte(stdout), &r); err != nil {
		b.t.Fatal(err)
	}
	return r
}

// files lists the root's files but for etc/passwd, with their modes.
func (b *box) files() []string {
	b.t.Helper()
	var list []string
	err := filepath.WalkDir(b.root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "passwd" {
			return err
		}
		info, err := d.Info()
		name, _ := filepath.Rel(b.root, path)
		list = append(list, fmt.Sprintf("%04o %s", info.Mode().Perm(), name))
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return list
}

func (b *box) read(name string) string {
	b.t.Helper()
	text, err := os.ReadFile(filepath.Join(b.root, name))
	if err != nil {
		b.t.Fatal(err)
	}
	return string(text)
}

func TestMasterWrites(t *testing.T) {
	b, grid := newBox(t), newGrid(t, 1)
	b.insert(grid, floppy.RoleMaster, grid.Material[0].Address.String())
	first := b.write()
	want := []string{
		"0755 etc/auto.ganfs", "0644 etc/auto.master.d/ganfs.autofs",
		"0644 etc/condor/config.d/10-grid-network.conf", "0644 etc/condor/config.d/15-grid-masters.conf", "0644 etc/condor/config.d/20-grid-security.conf",
		"0644 etc/condor/config.d/30-grid-role.conf", "0644 etc/condor/config.d/50-grid-tune.conf",
		"0644 etc/condor/grid/ca.crt", "0644 etc/condor/grid/mapfile", "0644 etc/condor/grid/node.crt", "0600 etc/condor/grid/node.key",
	}
	if diff := cmp.Diff(want, b.files()); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if len(first.Changed) != len(want) || first.Waiting != "" {
		t.Errorf("first write: %+v", first)
	}
	renew, err := time.Parse(time.RFC3339, first.Renew)
	if left := time.Until(renew); err != nil || left < 10*time.Hour || left > 12*time.Hour {
		t.Errorf("renew %q (%v), want half of a day from an hour ago", first.Renew, err)
	}
	second := b.write()
	want2 := Result{Changed: []string{}, Reload: []string{}, Restart: []string{}, Start: first.Start, Stop: first.Stop, Renew: first.Renew,
		Offer: &pool.Offer{Master: "C250000002.ipop", Pool: []string{"C250000002.ipop"}}}
	if diff := cmp.Diff(want2, second); diff != "" {
		t.Errorf("second write (-want +got):\n%s", diff)
	}
}

// TestRenewal: a certificate past half of its life is replaced and nothing is
// restarted; one of a moment before stays.
func TestRenewal(t *testing.T) {
	b, grid := newBox(t), newGrid(t, 1)
	b.insert(grid, floppy.RoleMaster, grid.Material[0].Address.String())
	b.write()
	block, _ := pem.Decode([]byte(b.read(pool.CertFile)))
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	o := options{floppy: b.floppy, root: b.root, status: b.status}
	for _, c := range []struct {
		now  time.Time
		want []string
	}{
		{half(leaf).Add(-time.Second), []string{}},
		{half(leaf).Add(time.Second), []string{"/" + pool.CertFile}}, // in one step: the key stays
		{leaf.NotAfter.Add(time.Hour), []string{"/" + pool.KeyFile, "/" + pool.CertFile}},
	} {
		d, err := o.decide(t.Context(), c.now)
		if err != nil {
			t.Fatal(err)
		}
		r := d.result()
		if diff := cmp.Diff(c.want, r.Changed); diff != "" {
			t.Errorf("%v: changed (-want +got):\n%s", c.now, diff)
		}
		if len(r.Restart) > 0 {
			t.Errorf("a certificate restarts %v", r.Restart)
		}
		d.Close()
	}
}

// TestMemberCertificate follows a client's certificate through its life, with
// the master's part played by a function.
func TestMemberCertificate(t *testing.T) {
	grid := newGrid(t, 1)
	start := time.Now()
	refused := fmt.Errorf("%w: revoked", fs.ErrPermission)
	silent := errors.New("no master answers")
	for _, c := range []struct {
		name    string
		first   error // of the first request, nil: signed
		at      time.Duration
		then    error // of a later one
		asked   int   // requests in all
		waiting string
		changed []string
		renew   time.Duration // since start, 0: not looked at
	}{
		{"kept while fresh", nil, 11*time.Hour - time.Minute, silent, 1, "", []string{}, 11 * time.Hour},
		{"renewed at half, with its key", nil, 11*time.Hour + time.Minute, nil, 2, "", []string{"/" + pool.CertFile}, 22*time.Hour + time.Minute},
		{"kept when nobody renews it", nil, 12 * time.Hour, silent, 2, "", []string{}, 12*time.Hour + 5*time.Minute},
		{"withdrawn when every master refuses", nil, 12 * time.Hour, refused, 2, "revoked", []string{"/" + pool.KeyFile, "/" + pool.CertFile}, 0},
		{"withdrawn at its end", nil, 24 * time.Hour, silent, 2, "no master answers", []string{"/" + pool.KeyFile, "/" + pool.CertFile}, 0},
		{"asked for again when the first request failed", silent, time.Second, nil, 2, "", []string{"/" + pool.KeyFile, "/" + pool.CertFile}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBox(t)
			b.insert(grid, floppy.RoleClient, "10.250.0.18")
			asked, answer, now := 0, c.first, start
			o := options{floppy: b.floppy, root: b.root, status: b.status, sign: func(_ context.Context, request []byte) ([]byte, error) {
				asked++
				if answer != nil {
					return nil, answer
				}
				return sign(t, grid, request, "C250000018.ipop", now), nil
			}}
			decide := func() Result {
				d, err := o.decide(t.Context(), now)
				if err != nil {
					t.Fatal(err)
				}
				defer d.Close()
				if err := tree.Apply(d.root, d.changes); err != nil {
					t.Fatal(err)
				}
				return d.result()
			}
			decide()
			now, answer = start.Add(c.at), c.then
			r := decide()
			if asked != c.asked {
				t.Errorf("a master was asked %d times, want %d", asked, c.asked)
			}
			if diff := cmp.Diff(c.changed, r.Changed); diff != "" {
				t.Errorf("changed (-want +got):\n%s", diff)
			}
			if !strings.Contains(r.Waiting, c.waiting) || slices.Contains(r.Start, pool.CondorUnit) != (c.waiting == "") {
				t.Errorf("%+v, want waiting with %q", r, c.waiting)
			}
			if renew, _ := time.Parse(time.RFC3339, r.Renew); c.renew > 0 && renew.Sub(start.Add(c.renew)).Abs() > 2*time.Second {
				t.Errorf("renew %v, want %v", renew.Sub(start), c.renew)
			}
		})
	}
}

// sign does the issuing service's part.
func sign(t *testing.T, grid *credential.Grid, request []byte, name string, now time.Time) []byte {
	t.Helper()
	block, _ := pem.Decode(request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		t.Fatalf("no request: %q", request)
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || csr.CheckSignature() != nil {
		t.Fatalf("request: %v, %v", err, csr.CheckSignature())
	}
	chain, err := credential.IssueCondor(grid.Material[0].IssuerCert, grid.Material[0].IssuerKey, credential.CondorRequest{
		Grid: "archer", Group: "physics", Role: credential.RoleClient, Name: name, Key: csr.PublicKey.(*ecdsa.PublicKey), Now: now,
	})
	if err != nil {
		t.Fatal(err)
	}
	return chain
}

// TestProgramAsksMasters: what the program says comes through, and its refusal
// is told from its failure.
func TestProgramAsksMasters(t *testing.T) {
	for _, c := range []struct {
		script string
		want   string
		denied bool
	}{
		{"cat", "request", false},
		{"echo 'overlayd: revoked' >&2; exit 4", "overlayd: revoked", true},
		{"echo 'overlayd: nobody answers' >&2; exit 1", "overlayd: nobody answers", false},
	} {
		program := filepath.Join(t.TempDir(), "overlayd")
		if err := os.WriteFile(program, []byte("#!/bin/sh\n"+c.script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		out, err := options{overlayd: program}.askMasters(t.Context(), []byte("request"))
		got := string(out)
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, c.want) || errors.Is(err, fs.ErrPermission) != c.denied {
			t.Errorf("%s: %q, %v", c.script, out, err)
		}
	}
}

// TestRoleChange goes through the roles on one machine: no file of the role
// before stays, and units of it are stopped.
func TestRoleChange(t *testing.T) {
	b, grid := newBox(t), newGrid(t, 1)
	for _, c := range []struct {
		role    floppy.Role
		address string
		gone    string // must not be there
		stop    string
	}{
		{floppy.RoleMaster, grid.Material[0].Address.String(), pool.PolicyFile, pool.NFSUnit},
		{floppy.RoleClient, "10.250.0.18", pool.KeyFile, pool.CondorUnit},
		{floppy.RoleWorker, "10.250.0.18", pool.ExportsFile, pool.NFSUnit},
		{floppy.RoleStandalone, "", pool.CAFile, pool.AutofsUnit},
		{floppy.RoleMaster, grid.Material[0].Address.String(), pool.PolicyFile, pool.NFSUnit},
	} {
		b.insert(grid, c.role, c.address)
		r := b.write()
		if _, err := os.Stat(filepath.Join(b.root, c.gone)); err == nil {
			t.Errorf("%s: /%s is still there", c.role, c.gone)
		}
		if !slices.Contains(r.Stop, c.stop) || slices.Contains(r.Start, c.stop) {
			t.Errorf("%s: %+v, want %s stopped", c.role, r, c.stop)
		}
		if again := b.write(); len(again.Changed) > 0 {
			t.Errorf("%s: a second write changes %v", c.role, again.Changed)
		}
		for _, u := range r.Restart {
			if !slices.Contains(r.Start, u) {
				t.Errorf("%s: restarts %s, which it does not run", c.role, u)
			}
		}
	}
}

// TestCutShort kills write after each of its changes in turn, and lets the
// next run finish: every file is old or new, and nothing is left beside them.
func TestCutShort(t *testing.T) {
	grid := newGrid(t, 1)
	for n := 0; ; n++ {
		b := newBox(t)
		b.insert(grid, floppy.RoleStandalone, "")
		b.write()
		b.insert(grid, floppy.RoleMaster, grid.Material[0].Address.String())
		d, err := options{floppy: b.floppy, root: b.root, status: b.status}.decide(t.Context(), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if n > len(d.changes) {
			return
		}
		if err := tree.Apply(d.root, d.changes[:n]); err != nil {
			t.Fatal(err)
		}
		d.Close()
		half := filepath.Join(b.root, "etc/condor/config.d/.10-grid-network.conf.new")
		if err := os.WriteFile(half, []byte("CONDOR_HO"), 0o600); err != nil {
			t.Fatal(err)
		}
		b.write()
		if left := strings.Join(b.files(), "\n"); strings.Contains(left, ".new") || strings.Contains(left, "40-grid") {
			t.Errorf("after %d changes: left %s", n, left)
		}
		if again := b.write(); len(again.Changed) > 0 {
			t.Errorf("after %d changes: %v still to do", n, again.Changed)
		}
	}
}

func TestRefusals(t *testing.T) {
	grid := newGrid(t, 1)
	good := memberStatus(grid, floppy.RoleClient, "physics", "alice", netip.MustParseAddr("10.250.0.18"))
	cases := map[string]struct {
		change func(*control.Status)
		code   int
		want   string
	}{
		"no address yet": {func(s *control.Status) {
			s.Address, s.State, s.Reason = netip.Prefix{}, control.StateJoining, "no witness answers"
		}, 5, "no virtual address yet: no witness answers"},
		"another role":      {func(s *control.Status) { s.Role = "worker" }, 1, `overlayd runs on another floppy: role "worker"`},
		"another group":     {func(s *control.Status) { s.Group = "chemistry" }, 1, `group "chemistry"`},
		"no reachable head": {func(s *control.Status) { s.Masters[0].Address = netip.MustParseAddr("10.9.0.2") }, 3, "the grid names no master"},
		"hostile name":      {func(s *control.Status) { s.Name = "C250000018.ipop\nALLOW_WRITE = *" }, 3, "is not that of 10.250.0.18"},
		"hostile device":    {func(s *control.Status) { s.Device = "tap$(x)" }, 3, "is not the name of a device"},
		"hostile master":    {func(s *control.Status) { s.Masters[0].Name = "x y" }, 1, "cannot stand in HTCondor's configuration"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			b := newBox(t)
			b.insert(grid, floppy.RoleClient, "10.250.0.18")
			s := good
			s.Masters = slices.Clone(good.Masters)
			c.change(&s)
			writeStatus(t, b.status, s)
			code, stdout, stderr := b.run("write")
			if code != c.code || !strings.Contains(stderr, c.want) || stdout != "" {
				t.Errorf("exit %d, stdout %q, stderr %q; want exit %d and %q", code, stdout, stderr, c.code, c.want)
			}
			if left := b.files(); len(left) > 0 {
				t.Errorf("it wrote %v", left)
			}
		})
	}
}

// TestForeignCertificate: what lies in the certificate's place counts only
// when it is this machine's.
func TestForeignCertificate(t *testing.T) {
	grid := newGrid(t, 1)
	issue := func(grid *credential.Grid, group, name string, now time.Time) (string, string) {
		private, err := credential.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		chain, err := credential.IssueCondor(grid.Material[0].IssuerCert, grid.Material[0].IssuerKey,
			credential.CondorRequest{Grid: "archer", Group: group, Role: "client", Name: name, Key: &private.PublicKey, Now: now})
		if err != nil {
			t.Fatal(err)
		}
		key, err := credential.FormatKey(private)
		if err != nil {
			t.Fatal(err)
		}
		return string(chain), string(key)
	}
	const mine = "C250000018.ipop"
	cases := map[string]struct {
		grid        *credential.Grid
		group, name string
		now         time.Time
		want        string
	}{
		"own":              {grid, "physics", mine, time.Now(), ""},
		"another host's":   {grid, "physics", "C250000019.ipop", time.Now(), "CN=C250000019.ipop"},
		"another group's":  {grid, "chemistry", mine, time.Now(), "OU=chemistry"},
		"of another grid":  {newGrid(t, 1), "physics", mine, time.Now(), "unknown authority"},
		"not valid as yet": {grid, "physics", mine, time.Now().Add(2 * time.Hour), "not yet valid"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			b := newBox(t)
			b.insert(grid, floppy.RoleClient, "10.250.0.18")
			b.write()
			cert, key := issue(c.grid, c.group, c.name, c.now)
			for path, text := range map[string]string{pool.CertFile: cert, pool.KeyFile: key} {
				if err := os.WriteFile(filepath.Join(b.root, path), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			r := b.write()
			if started := slices.Contains(r.Start, pool.CondorUnit); started != (c.want == "") || !strings.Contains(r.Waiting, c.want) {
				t.Errorf("%+v, want waiting with %q", r, c.want)
			}
		})
	}
}

func TestPlanShowsNoKey(t *testing.T) {
	b, grid := newBox(t), newGrid(t, 1)
	b.insert(grid, floppy.RoleMaster, grid.Material[0].Address.String())
	for _, more := range [][]string{nil, {"--json"}} {
		code, stdout, stderr := b.run("plan", more...)
		if code != 0 || !strings.Contains(stdout, "create /etc/condor/grid/node.key 0600") {
			t.Fatalf("plan %v: exit %d: %s%s", more, code, stdout, stderr)
		}
		if strings.Contains(stdout, "PRIVATE KEY") {
			t.Errorf("plan %v prints a key", more)
		}
	}
	if left := b.files(); len(left) > 0 {
		t.Errorf("plan wrote %v", left)
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{"wriet"}, {"write", "--jsno"}, {"write", "extra"}, {"automount", "one"}} {
		var stdout, stderr strings.Builder
		if code := run(t.Context(), args, strings.NewReader(""), &stdout, &stderr); code != 2 || stdout.Len() > 0 {
			t.Errorf("condorconf %v: exit %d, stdout %q, stderr %q; want exit 2", args, code, &stdout, &stderr)
		}
	}
}
