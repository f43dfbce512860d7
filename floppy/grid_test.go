package floppy

import (
	"bytes"
	"encoding/base64"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gridappliance/credential"
)

// now is when every test takes place; grids are a day old by then.
var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// world is what the floppies of the tests are made of: a grid with the
// namespace of the first generation's files and another, a second grid, and
// credentials of both.
type world struct {
	grid, other           *credential.Grid
	alice, both, stranger []File // GRID.DSC, HOLDER.CRT, HOLDER.KEY
	master                []File // and NODE.KEY, ISSUER.CRT, ISSUER.KEY
	witness               []File // and NODE.KEY
}

var theWorld = sync.OnceValues(func() (*world, error) {
	namespaces := []credential.Namespace{{Name: "Generic"}, {Name: "lab", Pool: netip.MustParsePrefix("10.251.0.0/16")}}
	made := now.Add(-24 * time.Hour)
	w := &world{}
	var err error
	if w.grid, err = credential.NewGrid(credential.GridOptions{Name: "archer", Masters: 2, Namespaces: namespaces}, made); err != nil {
		return nil, err
	}
	if w.other, err = credential.NewGrid(credential.GridOptions{Name: "bowman", Namespaces: namespaces[:1]}, made); err != nil {
		return nil, err
	}
	holder := func(g *credential.Grid, req credential.HolderRequest) []File {
		cert, key, issueErr := g.IssueHolder(req, made)
		if issueErr != nil {
			err = issueErr
		}
		return []File{{DescriptorFile, g.Descriptor.Text()}, {HolderCertFile, cert}, {HolderKeyFile, key}}
	}
	worker := []credential.Role{credential.RoleWorker}
	w.alice = holder(w.grid, credential.HolderRequest{User: "alice", Group: "physics", Roles: worker, Namespaces: []string{"Generic"}})
	w.both = holder(w.grid, credential.HolderRequest{User: "bob", Group: "biology", Roles: worker, Rights: credential.Rights{Router: true}})
	w.stranger = holder(w.other, credential.HolderRequest{User: "alice", Group: "physics", Roles: worker})
	material := func(m credential.MasterMaterial) []File {
		return []File{{DescriptorFile, w.grid.Descriptor.Text()}, {HolderCertFile, m.HolderCert}, {HolderKeyFile, m.HolderKey}, {NodeKeyFile, m.NodeKey}}
	}
	m := w.grid.Material[0]
	w.master = append(material(m), File{IssuerCertFile, m.IssuerCert}, File{IssuerKeyFile, m.IssuerKey})
	w.witness = material(w.grid.Material[2])
	return w, err
})

func newWorld(t testing.TB) *world {
	t.Helper()
	w, err := theWorld()
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// with returns files and more; a later file of one name replaces the earlier.
func with(files []File, more ...File) []File {
	var out []File
	for i, f := range append(append([]File{}, files...), more...) {
		replaced := false
		for _, g := range more {
			replaced = replaced || i < len(files) && g.Name == f.Name
		}
		if !replaced {
			out = append(out, f)
		}
	}
	return out
}

// without returns files but one.
func without(files []File, name string) []File {
	var out []File
	for _, f := range files {
		if f.Name != name {
			out = append(out, f)
		}
	}
	return out
}

func pick(files []File, name string) []byte {
	for _, f := range files {
		if f.Name == name {
			return f.Data
		}
	}
	panic("no file " + name)
}

// config is GRID.TML with a role and more lines.
func config(role, more string) File {
	return File{ConfigFile, []byte("version = 1\n\n[machine]\nrole = \"" + role + "\"\n" + more)}
}

// sshKey is a line of authorized_keys: a key of zeros.
var sshKey = "ssh-ed25519 " + base64.StdEncoding.EncodeToString(append([]byte("\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20"), make([]byte, 32)...)) + " alice@oak\n"

func readTestdata(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestGoodFloppies: nothing is found wrong with what is right.
func TestGoodFloppies(t *testing.T) {
	w := newWorld(t)
	ipop, dhcp := File{IPOPXMLFile, readTestdata(t, "IpopConfig.xml")}, File{DHCPXMLFile, readTestdata(t, "DHCPServerConfig.xml")}
	for _, c := range []struct {
		name  string
		files []File
	}{
		{"worker", with(w.alice, config("worker", ""))},
		{"router", with(w.both, config("worker", "[network]\nnamespace = \"lab\"\nmode = \"router\"\nlan-interface = \"eth1\"\n"))},
		{"everything named", with(w.alice, config("worker", "[condor]\nuser = \"alice\"\ngroup = \"physics\"\nmasters = [\"C250000002.ipop\"]\nflock = [\"C250000003.ipop\"]\n"))},
		{"master", with(w.master, config("master", ""))},
		{"witness", with(w.witness, config("worker", ""))},
		{"standalone", []File{config("standalone", "")}},
		{"ssh keys", []File{config("standalone", ""), {SSHKeysFile, []byte("# mine\r\n\r\n" + sshKey)}}},
		{"first generation", with(w.alice, config("worker", ""), ipop, dhcp)},
		{"first generation, agreed", with(w.alice, config("worker", "[network]\nnamespace = \"Generic\"\nmulticast = true\n"), ipop, dhcp)},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := CheckImage("x.img", mustWrite(t, c.files), now)
			if err != nil {
				t.Fatalf("%v", err)
			}
			if got, want := len(f.Files()), len(c.files); got != want {
				t.Errorf("%d files, want %d", got, want)
			}
			image := mustWrite(t, f.Files())
			if !bytes.Equal(mustWrite(t, c.files), image) {
				t.Error("Files makes another image")
			}
			zipped, err := Zip(image)
			if err != nil {
				t.Fatal(err)
			}
			if again, err := DecodeCredential(EncodeCredential(zipped)); err != nil || !bytes.Equal(again, image) {
				t.Errorf("zip and base64 give another image: %v", err)
			}
			t.Logf("zipped: %d bytes", len(zipped))
		})
	}
}

// TestFirstGeneration: the two files as they came, byte for byte.
func TestFirstGeneration(t *testing.T) {
	w := newWorld(t)
	files := with(w.alice, config("worker", ""), File{IPOPXMLFile, readTestdata(t, "IpopConfig.xml")}, File{DHCPXMLFile, readTestdata(t, "DHCPServerConfig.xml")})
	f, err := Decode("x.img", files)
	if err != nil {
		t.Fatal(err)
	}
	want := Network{Namespace: "Generic", Mode: ModeHost, Hostname: "Example", Device: "tap0", Multicast: true}
	if d := cmp.Diff(want, f.Config.Network); d != "" {
		t.Errorf("IpopConfig (-want +got):\n%s", d)
	}
	wantDHCP := DHCPServer{Namespace: "Generic", Pool: netip.MustParsePrefix("10.250.0.0/16"), Reserved: []credential.Reserved{credential.EveryDotOne}, LeaseTime: 3600}
	f.DHCP.where = nil
	if d := cmp.Diff(wantDHCP, *f.DHCP, cmp.AllowUnexported(DHCPServer{}), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Errorf("DHCPServerConfig (-want +got):\n%s", d)
	}
	multicast, err := Decode("x.img", with(files, File{IPOPXMLFile, []byte("<IpopConfig><EnableMulticast>false</EnableMulticast></IpopConfig>")}))
	if err != nil || multicast.Config.Network.Multicast || multicast.Config.Network.Device != "tapipop" {
		t.Errorf("EnableMulticast false: %+v, %v", multicast, err)
	}
}

func TestIdentity(t *testing.T) {
	w := newWorld(t)
	f, err := Decode("x.img", with(w.alice, config("worker", "")))
	if err != nil {
		t.Fatal(err)
	}
	id, err := f.Identity(now)
	if err != nil || id.Holder.User != "alice" || id.Descriptor.Grid != "archer" {
		t.Fatalf("identity %+v, %v", id, err)
	}
	f.Config.ApplyHolder(id.Holder)
	if c := f.Config; c.Condor.Group != "physics" || c.Condor.User != "alice" || c.Network.Namespace != "Generic" {
		t.Errorf("after ApplyHolder: %+v %+v", c.Condor, c.Network)
	}
	if f, err = Decode("x.img", []File{config("standalone", "")}); err != nil {
		t.Fatal(err)
	}
	if id, err := f.Identity(now); id != nil || err != nil {
		t.Errorf("standalone has identity %v, %v", id, err)
	}
}
