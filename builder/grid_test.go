package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gridappliance/credential"
	"gridappliance/floppy"
	"gridappliance/internal/diag"
)

// inTemp runs the test in an empty folder.
func inTemp(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Chdir(dir)
	return dir
}

func TestGridNew(t *testing.T) {
	inTemp(t)
	out := must(t, "grid", "new", "archer", "--masters", "2", "--bootstrap", "grid.example.org:4242")
	if want := "archer/master-1.img\narcher/master-2.img\narcher/witness-1.img\n"; out != want {
		t.Errorf("printed %q, want %q", out, want)
	}
	for name, role := range map[string]floppy.Role{"master-1": floppy.RoleMaster, "master-2": floppy.RoleMaster, "witness-1": floppy.RoleWorker} {
		path := "archer/" + name + ".img"
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
		must(t, "floppy", "check", path)
		image, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		f, err := floppy.Open(path, image)
		if err != nil {
			t.Fatal(err)
		}
		id, err := f.Identity(time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if f.Config.Machine.Role != role || id.Holder.User != name || (f.IssuerKey != nil) != (role == floppy.RoleMaster) || f.NodeKey == nil {
			t.Errorf("%s: role %s, user %s", name, f.Config.Machine.Role, id.Holder.User)
		}
		if diff := cmp.Diff([]string{"grid.example.org:4242"}, id.Descriptor.Bootstrap); diff != "" {
			t.Error(diff)
		}
	}
	left, err := filepath.Glob(".archer*")
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

func TestGridNewFromDHCP(t *testing.T) {
	inTemp(t)
	text := `<DHCPServerConfig>
  <Namespace>Generic</Namespace>
  <netmask>255.255.0.0</netmask>
  <pool><lower>10.254.0.0</lower><upper>10.254.255.255</upper></pool>
  <DHCPReservedIPs><DHCPReservedIP><ip>0.0.0.2</ip><mask>0.0.0.255</mask></DHCPReservedIP></DHCPReservedIPs>
  <leasetime>7200</leasetime>
</DHCPServerConfig>
`
	if err := os.WriteFile("dhcp.xml", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, "grid", "new", "archer", "--from", "dhcp.xml", "--masters", "1")
	var got rosterReport
	if err := json.Unmarshal([]byte(must(t, "grid", "roster", "archer", "--json")), &got); err != nil {
		t.Fatal(err)
	}
	n := got.Namespaces[0]
	if n.Name != "Generic" || n.Pool.String() != "10.254.0.0/16" || n.LeaseTime != 7200 || n.HoldTime != credential.DefaultHoldTime || len(n.Reserved) != 1 || n.Reserved[0].Address.String() != "0.0.0.2" {
		t.Errorf("namespace %+v", n)
	}
	if m := got.Masters[0]; m.Address.String() != "10.254.0.3" || m.Host != "C254000003.ipop" || m.Name != "master-1" {
		t.Errorf("master %+v; .2 is reserved here", m)
	}
	// The file it was made from belongs on floppies of this grid.
	must(t, "floppy", "new", "--grid", "archer", "--role", "worker", "--group", "physics", "--user", "alice", "--dhcp-xml", "dhcp.xml", "-o", "alice.img")
}

func TestGridNewRefuses(t *testing.T) {
	inTemp(t)
	if err := os.Mkdir("there", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("bad.xml", []byte("<DHCPServerConfig><Namespace>Generic</Namespace></DHCPServerConfig>"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		args   []string
		code   int
		stderr []string
	}{
		"no name":              {nil, diag.ExitUsage, []string{"accepts 1 arg"}},
		"exists":               {[]string{"there"}, diag.ExitFailed, []string{"there", "exists", "nothing was changed"}},
		"no folder to put it":  {[]string{"nowhere/archer"}, diag.ExitFailed, []string{"nowhere"}},
		"bad name":             {[]string{"Archer"}, diag.ExitInvalid, []string{`"Archer"`, "lower-case"}},
		"no masters":           {[]string{"archer", "--masters", "0"}, diag.ExitUsage, []string{"--masters 0"}},
		"too many masters":     {[]string{"archer", "--masters", "10"}, diag.ExitInvalid, []string{"1 to 9"}},
		"not a pool":           {[]string{"archer", "--pool", "10.250.0.0"}, diag.ExitUsage, []string{"--pool", "such as 10.250.0.0/16"}},
		"wide and public pool": {[]string{"archer", "--pool", "0.0.0.0/4"}, diag.ExitInvalid, []string{"too wide", "used on the internet"}},
		"small pool":           {[]string{"archer", "--pool", "10.250.0.0/30"}, diag.ExitInvalid, []string{"too small"}},
		"bad namespace":        {[]string{"archer", "--namespace", "a b"}, diag.ExitInvalid, []string{`"a b"`}},
		"bad bootstrap":        {[]string{"archer", "--bootstrap", "example.org"}, diag.ExitInvalid, []string{"host.example.org:4242"}},
		"from and pool":        {[]string{"archer", "--from", "bad.xml", "--pool", "10.0.0.0/8"}, diag.ExitUsage, []string{"from", "pool"}},
		"from nothing":         {[]string{"archer", "--from", "none.xml"}, diag.ExitFailed, []string{"none.xml"}},
		"from a bad file":      {[]string{"archer", "--from", "bad.xml"}, diag.ExitInvalid, []string{"bad.xml", "netmask", "leasetime", "pool/lower"}},
	} {
		code, stdout, stderr := builder(t, append([]string{"grid", "new"}, tt.args...)...)
		if code != tt.code || stdout != "" {
			t.Errorf("%s: exit %d, want %d; stdout %q, stderr %q", name, code, tt.code, stdout, stderr)
		}
		for _, s := range tt.stderr {
			if !strings.Contains(stderr, s) {
				t.Errorf("%s: %q does not say %q", name, stderr, s)
			}
		}
	}
	entries, err := os.ReadDir(".")
	if err != nil || len(entries) != 2 {
		t.Errorf("a refusal left something: %v, %v", entries, err)
	}
}

func TestGridRevoke(t *testing.T) {
	inTemp(t)
	must(t, "grid", "new", "archer", "--masters", "1")
	for range 2 {
		must(t, "floppy", "new", "--grid", "archer", "--role", "worker", "--group", "physics", "--user", "alice", "--force", "-o", "alice.img")
	}
	must(t, "floppy", "new", "--grid", "archer", "--role", "client", "--group", "physics", "--user", "bob", "-o", "bob.img")
	states := func() map[string][]string {
		var lines []ledgerLine
		if err := json.Unmarshal([]byte(must(t, "grid", "list", "archer", "--json")), &lines); err != nil {
			t.Fatal(err)
		}
		got := map[string][]string{}
		for _, l := range lines {
			got[l.User] = append(got[l.User], l.State)
		}
		return got
	}
	want := map[string][]string{"master-1": {"good", "good"}, "alice": {"good", "good"}, "bob": {"good"}}
	must(t, "grid", "revoke", "archer", "--user", "alice", "--dry-run")
	if diff := cmp.Diff(want, states()); diff != "" {
		t.Errorf("after a dry run: %s", diff)
	}
	out := must(t, "grid", "revoke", "archer", "--user", "alice", "--reason", "lost")
	if strings.Count(out, "alice") != 2 || strings.Contains(out, "bob") {
		t.Errorf("printed %q", out)
	}
	want["alice"] = []string{"revoked", "revoked"}
	if diff := cmp.Diff(want, states()); diff != "" {
		t.Error(diff)
	}
	text, err := os.ReadFile("archer/revoked.pem")
	if err != nil {
		t.Fatal(err)
	}
	list, err := credential.ParseRevocations(text)
	if err != nil || list.Version != 1 || len(list.Entries) != 2 {
		t.Fatalf("%+v, %v", list, err)
	}

	// The list refuses alice's floppy and not bob's.
	grid, err := credential.LoadGrid("archer")
	if err != nil {
		t.Fatal(err)
	}
	v, err := credential.NewVerifier(grid.Descriptor, list)
	if err != nil {
		t.Fatal(err)
	}
	for name, revoked := range map[string]bool{"alice.img": true, "bob.img": false} {
		image, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		f, err := floppy.Open(name, image)
		if err != nil {
			t.Fatal(err)
		}
		chain, err := credential.ParseChain(f.HolderCert)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.VerifyHolder(chain, time.Now()); (err != nil) != revoked {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, tt := range map[string]struct {
		args []string
		code int
		says string
	}{
		"again":           {[]string{"--user", "alice"}, diag.ExitNothing, "revoked or has ended already"},
		"unknown user":    {[]string{"--user", "alcie"}, diag.ExitFailed, `did you mean "alice"?`},
		"unknown serial":  {[]string{"--serial", "1234"}, diag.ExitFailed, "builder grid list"},
		"nobody":          {nil, diag.ExitUsage, "user serial"},
		"HTCondor issuer": {[]string{"--serial", grid.Ledger[1].Serial}, diag.ExitFailed, "reads no revocation list"},
	} {
		code, _, stderr := builder(t, append([]string{"grid", "revoke", "archer"}, tt.args...)...)
		if code != tt.code || !strings.Contains(stderr, tt.says) {
			t.Errorf("%s: exit %d, want %d: %s", name, code, tt.code, stderr)
		}
	}
	must(t, "grid", "revoke", "archer", "--serial", grid.Ledger[len(grid.Ledger)-1].Serial)
	if got := states()["bob"]; got[0] != "revoked" {
		t.Errorf("bob is %s", got)
	}
}

func TestGridRenew(t *testing.T) {
	inTemp(t)
	must(t, "grid", "new", "archer", "--masters", "2")
	must(t, "floppy", "edit", "archer/master-1.img", "--set", "network.hostname=oak")
	open := func() map[string]*floppy.Floppy {
		got := map[string]*floppy.Floppy{}
		for _, name := range []string{"master-1", "master-2", "witness-1"} {
			image, err := os.ReadFile("archer/" + name + ".img")
			if err != nil {
				t.Fatal(err)
			}
			if got[name], err = floppy.Open(name, image); err != nil {
				t.Fatal(err)
			}
		}
		return got
	}
	before := open()
	must(t, "grid", "renew", "archer", "master-1", "witness-1")
	after := open()
	for name, f := range after {
		renewed := name != "master-2"
		if same := string(f.HolderCert) == string(before[name].HolderCert); same == renewed {
			t.Errorf("%s: same holder %v", name, same)
		}
		if same := string(f.IssuerKey) == string(before[name].IssuerKey); same == (name == "master-1") {
			t.Errorf("%s: same issuer %v", name, same)
		}
		if string(f.NodeKey) != string(before[name].NodeKey) || f.Config.Network.Hostname != before[name].Config.Network.Hostname {
			t.Errorf("%s: identity or configuration changed", name)
		}
		must(t, "floppy", "check", "archer/"+name+".img")
	}
	if after["master-1"].Config.Network.Hostname != "oak" {
		t.Error("the configuration is the template's")
	}
	code, _, stderr := builder(t, "grid", "renew", "archer", "master-7")
	if code != diag.ExitFailed || !strings.Contains(stderr, "master-7") {
		t.Errorf("unknown master: exit %d, %s", code, stderr)
	}
}

func TestGridFolderMissing(t *testing.T) {
	inTemp(t)
	for _, verb := range []string{"roster", "list", "renew"} {
		code, _, stderr := builder(t, "grid", verb, "archer")
		if code != diag.ExitFailed || !strings.Contains(stderr, "builder grid new archer") {
			t.Errorf("%s: exit %d, %s", verb, code, stderr)
		}
	}
}
