package floppy

import (
	"bytes"
	"encoding/binary"
	"encoding/pem"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"gridappliance/internal/diag"
)

// broken is a floppy with a mistake, made by code.
type broken struct {
	name  string
	image func(t testing.TB, w *world) []byte
	at    time.Time // when it is read; zero is now
}

// disk is a floppy whose files stand in known clusters, to be damaged:
// GRID.TML in 2, 3, 4 and SSHKEYS in 5; the label is entry 0.
func disk(damage func(image []byte)) func(testing.TB, *world) []byte {
	return func(t testing.TB, _ *world) []byte {
		long := config("standalone", strings.Repeat("# a comment that takes room\n", 45))
		image := mustWrite(t, []File{long, {SSHKeysFile, []byte(sshKey)}})
		damage(image)
		return image
	}
}

// of is a floppy of files.
func of(files func(w *world) []File) func(testing.TB, *world) []byte {
	return func(t testing.TB, w *world) []byte { return rawImage(t, files(w)) }
}

// tomlOnly is a floppy that holds only a GRID.TML.
func tomlOnly(text string) func(testing.TB, *world) []byte {
	return of(func(*world) []File { return []File{{ConfigFile, []byte(text)}} })
}

// workerWith is alice's floppy with lines added to a worker's configuration.
func workerWith(more string) func(testing.TB, *world) []byte {
	return of(func(w *world) []File { return with(w.alice, config("worker", more)) })
}

// xmlWith is alice's floppy with a file of the first generation.
func xmlWith(name, more, text string) func(testing.TB, *world) []byte {
	return of(func(w *world) []File { return with(w.alice, config("worker", more), File{name, []byte(text)}) })
}

// link sets an entry in both allocation tables.
func link(image []byte, c, next int) {
	setTableEntry(image[fatOffset:], c, next)
	setTableEntry(image[copyOffset:], c, next)
}

// entry returns the n-th directory entry; 0 is the label.
func entry(image []byte, n int) []byte { return image[rootOffset+n*entrySize:][:entrySize] }

// rawImage writes files as WriteImage does, and what it refuses as well: long
// names, small letters, empty files.
func rawImage(t testing.TB, files []File) []byte {
	t.Helper()
	plain := make([]File, len(files))
	for i, f := range files {
		plain[i] = File{Name: string(rune('A'+i)) + "~1", Data: append([]byte{}, f.Data...)}
		if len(f.Data) == 0 {
			plain[i].Data = []byte("x")
		}
	}
	image := mustWrite(t, plain)
	entries := make([][]byte, len(files))
	for i := range files {
		entries[i] = bytes.Clone(entry(image, i+1))
	}
	n := 1
	for i, f := range files {
		short, ok := shortName(f.Name)
		if ok {
			copy(entries[i], short[:])
		} else {
			n += putLongName(image, n, f.Name, entries[i][:11])
		}
		if len(f.Data) == 0 {
			link(image, int(binary.LittleEndian.Uint16(entries[i][26:])), clusterFree)
			clear(entries[i][26:])
		}
		copy(entry(image, n), entries[i])
		n++
	}
	return image
}

// putLongName writes the entries of a long name and returns how many.
func putLongName(image []byte, at int, name string, short []byte) int {
	units := utf16.Encode([]rune(name))
	if len(units)%13 != 0 {
		units = append(units, 0)
	}
	parts := (len(units) + 12) / 13
	for len(units) < parts*13 {
		units = append(units, 0xFFFF)
	}
	for p := parts; p >= 1; p-- {
		e := entry(image, at+parts-p)
		clear(e)
		e[0], e[11], e[13] = byte(p), attrLongName, shortSum(short)
		if p == parts {
			e[0] |= 0x40
		}
		for i, offset := range []int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30} {
			binary.LittleEndian.PutUint16(e[offset:], units[(p-1)*13+i])
		}
	}
	return parts
}

// noise is n bytes that nobody meant.
func noise(n int) []byte {
	data := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(data)
	return data
}

var brokenDisks = []broken{
	{name: "disk-0-bytes", image: func(testing.TB, *world) []byte { return nil }},
	{name: "disk-720k", image: func(testing.TB, *world) []byte { return make([]byte, 720<<10) }},
	{name: "disk-2880k", image: func(testing.TB, *world) []byte { return make([]byte, 2880<<10) }},
	{name: "disk-zeros", image: func(testing.TB, *world) []byte { return make([]byte, Size) }},
	{name: "disk-noise", image: func(testing.TB, *world) []byte { return noise(Size) }},
	{name: "disk-text", image: func(testing.TB, *world) []byte { return []byte("version = 1\n") }},
	{name: "truncated-fat", image: func(t testing.TB, w *world) []byte { return disk(func([]byte) {})(t, w)[:5000] }},
	{name: "truncated-root", image: func(t testing.TB, w *world) []byte { return disk(func([]byte) {})(t, w)[:rootOffset+100] }},
	{name: "truncated-data", image: func(t testing.TB, w *world) []byte { return disk(func([]byte) {})(t, w)[:700_000] }},
	{name: "oversize", image: func(t testing.TB, w *world) []byte {
		return append(disk(func([]byte) {})(t, w), make([]byte, sectorSize)...)
	}},
	{name: "bad-parameter-block", image: disk(func(d []byte) { d[13], d[21], d[22] = 2, 0xF9, 3 })},
	{name: "fat-wiped", image: disk(func(d []byte) { clear(d[fatOffset:rootOffset]) })},
	{name: "fats-differ", image: disk(func(d []byte) { setTableEntry(d[copyOffset:], 4, clusterFree) })},
	{name: "cluster-loop", image: disk(func(d []byte) { link(d, 4, 2) })},
	{name: "cluster-loop-on-itself", image: disk(func(d []byte) { link(d, 2, 2) })},
	{name: "cross-link", image: disk(func(d []byte) { link(d, 3, 5) })},
	{name: "chain-to-free", image: disk(func(d []byte) { link(d, 3, clusterFree) })},
	{name: "chain-to-reserved", image: disk(func(d []byte) { link(d, 3, 1) })},
	{name: "chain-bad-sector", image: disk(func(d []byte) { link(d, 3, clusterBad) })},
	{name: "chain-off-disk", image: disk(func(d []byte) { link(d, 3, lastCluster+1) })},
	{name: "chain-too-short", image: disk(func(d []byte) { link(d, 3, clusterEnd) })},
	{name: "chain-too-long", image: disk(func(d []byte) { link(d, 5, 6); link(d, 6, clusterEnd) })},
	{name: "size-4g", image: disk(func(d []byte) { binary.LittleEndian.PutUint32(entry(d, 1)[28:], 1<<32-1) })},
	{name: "no-first-cluster", image: disk(func(d []byte) { clear(entry(d, 1)[26:28]) })},
	{name: "twins", image: disk(func(d []byte) { copy(entry(d, 2), "GRID    TML") })},
	{name: "twins-8.3", image: disk(func(d []byte) {
		first, second := bytes.Clone(entry(d, 1)), bytes.Clone(entry(d, 2))
		copy(second, first[:11])
		n := 1 + putLongName(d, 1, "appliance.toml", first[:11])
		copy(entry(d, n), first)
		n += 1 + putLongName(d, n+1, "appliance.tom", second[:11])
		copy(entry(d, n), second)
	})},
	{name: "twins-long-and-short", image: disk(func(d []byte) {
		second := bytes.Clone(entry(d, 2))
		n := 2 + putLongName(d, 2, "grid.tml", second[:11])
		copy(entry(d, n), second)
	})},
	{name: "directory", image: disk(func(d []byte) { entry(d, 2)[11] = attrDirectory })},
	{name: "name-with-escapes", image: disk(func(d []byte) { copy(entry(d, 2), "\x1b[31mX  TXT") })},
}

var brokenFiles = []broken{
	{name: "no-files", image: of(func(*world) []File { return nil })},
	{name: "no-config", image: of(func(w *world) []File { return w.alice })},
	{name: "misspelt-file", image: of(func(w *world) []File { return with(w.alice, File{"GRID.TLM", config("worker", "").Data}) })},
	{name: "hidden-txt", image: of(func(w *world) []File { return with(w.alice, File{"Grid.tml.txt", config("worker", "").Data}) })},
	{name: "unknown-file", image: of(func(*world) []File { return []File{config("standalone", ""), {"HOLIDAY.JPG", []byte("x")}} })},
	{name: "two-configs", image: of(func(*world) []File {
		return []File{config("standalone", ""), {"Appliance.TOML", []byte("version = 1\n")}}
	})},
	{name: "empty-config", image: of(func(*world) []File { return []File{{Name: ConfigFile}} })},
	{name: "blank-config", image: tomlOnly("\xEF\xBB\xBF \r\n\r\n")},
	{name: "utf16", image: tomlOnly("\xFF\xFEv\x00e\x00r\x00s\x00i\x00o\x00n\x00")},
	{name: "latin1", image: tomlOnly("version = 1\n[machine]\nrole = \"standalone\" # f\xFCr alle\n")},
	{name: "huge-config", image: tomlOnly(strings.Repeat("# too much\n", 8000))},
}

var brokenConfigs = []broken{
	{name: "unknown-key", image: tomlOnly("version = 1\n[machine]\nrole = \"standalone\"\nconsol = \"off\"\n[condor]\ncolour = 1\n")},
	{name: "unknown-table", image: tomlOnly("version = 1\n[machin]\nrole = \"standalone\"\nanything = 1\n[a.b]\n")},
	{name: "key-in-wrong-table", image: tomlOnly("version = 1\nrole = \"standalone\"\n[machine]\nmtu = 1400\nversion = 1\n")},
	{name: "duplicate-key", image: tomlOnly("version = 1\n[machine]\nrole = \"standalone\"\nrole = \"worker\"\n")},
	{name: "quoted-dots", image: tomlOnly("version = 1\n\"machine.role\" = \"standalone\"\n")},
	{name: "duplicate-table", image: tomlOnly("version = 1\n[machine]\nrole = \"standalone\"\n[condor]\nslots = 1\n[machine]\nconsole = \"off\"\n")},
	{name: "dotted-and-table", image: tomlOnly("version = 1\nmachine.role = \"standalone\"\n[machine]\nconsole = \"off\"\n")},
	{name: "wrong-types", image: tomlOnly(`version = "1"
[machine]
role = 1
timezone = true
console = ["off"]
[network]
multicast = "yes"
mtu = 1400.5
bootstrap = "a:1"
[condor]
masters = true
flock = "yes"
slots = 2026-11-21
[share]
export = { path = "/mnt/local" }
[users]
names = ["alice", 7]
`)},
	{name: "out-of-bounds", image: tomlOnly("version = 0\n[machine]\nrole = \"standalone\"\n[condor]\nslots = 99999999999999999999\n[network]\nmtu = 1279\n")},
	{name: "syntax", image: tomlOnly("version = 1\n[machine]\n\trole = standalone\n")},
	{name: "syntax-and-more", image: tomlOnly("versio = 1\n[machine]\nrole = \"standalone\"\nconsole = \"off\n")},
	{name: "trailing-data", image: tomlOnly("version = 1\n[machine]\nrole = \"standalone\"\n\n--8<-- sent from my phone\n")},
	{name: "newer-version", image: tomlOnly("version = 2\n[machine]\nrole = \"standalone\"\nmood = \"good\"\n")},
	{name: "nothing-set", image: tomlOnly("# nothing\n")},
	{name: "unknown-role", image: tomlOnly("version = 1\n[machine]\nrole = \"wroker\"\nconsole = \"maybe\"\n")},
	{name: "escapes-in-value", image: tomlOnly("version = 1\n[machine]\nrole = \"standalone\"\ntimezone = \"\\u001b[2J\" # \xe2\x80\xae\n")},
	{name: "table-as-value", image: tomlOnly("version = 1\nmachine = \"standalone\"\n[modules]\nsource = \"/a\"\n[[share]]\n")},
	{name: "meaning", image: workerWith(`timezone = "Moon/Base"
[network]
namespace = "no such"
hostname = "C250000002"
device = "eth0"
bootstrap = ["grid.example.org", "a:0", "ok.example:4242", "ok.example:4242", "224.0.0.1:1"]
lan-interface = "eth1"
[condor]
group = "Physics!"
user = "Alice B"
masters = []
flock = ["oak"]
[share]
export = "/mnt/../etc"
[users]
names = ["root", "bob", "bob", "Eve"]
`)},
	{name: "router-without-lan", image: workerWith("[network]\nmode = \"router\"\n")},
	{name: "standalone-network", image: tomlOnly("version = 1\n[machine]\nrole = \"standalone\"\n[network]\nhostname = \"oak\"\nmtu = 1400\n")},
	{name: "modules", image: tomlOnly("version = 1\nmachine.role = \"standalone\"\n[[modules]]\n[[modules]]\nsource = \"http://example.org/x\"\nsha256 = \"ABC\"\n[[modules]]\nsourc = \"/a\"\nsha256 = \"\"\n")},
}

var brokenCredentials = []broken{
	{name: "no-credential", image: of(func(*world) []File { return []File{config("worker", "")} })},
	{name: "role-not-allowed", image: of(func(w *world) []File { return with(w.alice, config("client", "")) })},
	{name: "master-by-a-worker", image: of(func(w *world) []File { return with(w.master, append(w.alice, config("master", ""))...) })},
	{name: "other-group-and-user", image: workerWith("[condor]\ngroup = \"biology\"\nuser = \"bob\"\n")},
	{name: "other-namespace", image: workerWith("[network]\nnamespace = \"lab\"\n")},
	{name: "which-namespace", image: of(func(w *world) []File { return with(w.both, config("worker", "")) })},
	{name: "no-right-router", image: workerWith("[network]\nmode = \"router\"\nlan-interface = \"eth1\"\n")},
	{name: "no-such-master", image: workerWith("[condor]\nmasters = [\"C250000009.ipop\"]\nflock = [\"C250000020.ipop\"]\n")},
	{name: "clock-in-the-past", at: now.AddDate(-6, 0, 0), image: workerWith("")},
	{name: "expired-and-no-config", at: now.AddDate(0, 6, 0), image: of(func(w *world) []File { return w.alice })},
	{name: "expired", at: now.AddDate(0, 6, 0), image: workerWith("")},
	{name: "tampered-descriptor", image: of(func(w *world) []File {
		return with(w.alice, config("worker", ""), File{DescriptorFile, changeDescriptor(pick(w.alice, DescriptorFile))})
	})},
	{name: "cut-descriptor", image: of(func(w *world) []File {
		return with(w.alice, config("worker", ""), File{DescriptorFile, pick(w.alice, DescriptorFile)[:300]})
	})},
	{name: "other-grids-descriptor", image: of(func(w *world) []File {
		return with(w.alice, config("worker", ""), File{DescriptorFile, pick(w.stranger, DescriptorFile)})
	})},
	{name: "tampered-certificate", image: of(func(w *world) []File {
		return with(w.alice, config("worker", ""), File{HolderCertFile, tamper(pick(w.alice, HolderCertFile))})
	})},
	{name: "bad-chain", image: of(func(w *world) []File { // bob's holder under alice's, who may sign no holder
		return with(w.alice, config("worker", ""), File{HolderCertFile, append(bytes.Clone(pick(w.alice, HolderCertFile)), pick(w.both, HolderCertFile)...)})
	})},
	{name: "other-key", image: of(func(w *world) []File {
		return with(w.alice, config("worker", ""), File{HolderKeyFile, pick(w.both, HolderKeyFile)})
	})},
	{name: "swapped", image: of(func(w *world) []File {
		return with(w.alice, config("worker", ""), File{HolderCertFile, pick(w.alice, HolderKeyFile)}, File{HolderKeyFile, pick(w.alice, HolderCertFile)})
	})},
	{name: "masters-files-on-a-worker", image: of(func(w *world) []File {
		return with(w.alice, config("worker", ""), File{NodeKeyFile, pick(w.master, NodeKeyFile)}, File{IssuerKeyFile, pick(w.master, IssuerKeyFile)})
	})},
	{name: "master-without-issuer", image: of(func(w *world) []File {
		return without(without(with(w.master, config("master", "")), IssuerCertFile), NodeKeyFile)
	})},
	{name: "masters-mixed", image: of(func(w *world) []File {
		other := w.grid.Material[1]
		return with(w.master, config("master", ""), File{NodeKeyFile, other.NodeKey}, File{IssuerKeyFile, other.IssuerKey})
	})},
	{name: "other-grids-issuer", image: of(func(w *world) []File {
		other := w.other.Material[0]
		return with(w.master, config("master", ""), File{IssuerCertFile, other.IssuerCert}, File{IssuerKeyFile, other.IssuerKey})
	})},
	{name: "issuer-expired", at: now.AddDate(0, 6, 0), image: of(func(w *world) []File { return with(w.master, config("master", "")) })},
	{name: "ssh-private-key", image: of(func(w *world) []File {
		return []File{config("standalone", ""), {SSHKeysFile, pick(w.alice, HolderKeyFile)}}
	})},
	{name: "ssh-garbage", image: of(func(*world) []File {
		return []File{config("standalone", ""), {SSHKeysFile, []byte(sshKey + "ssh-ed25519 AAAAnothing\nhello\n")}}
	})},
}

var brokenXML = []broken{
	{name: "ipop-disagrees", image: xmlWith(IPOPXMLFile, "[network]\nhostname = \"oak\"\nmulticast = false\n",
		"<IpopConfig>\n  <AddressData><Hostname>Example</Hostname></AddressData>\n  <EnableMulticast>true</EnableMulticast>\n</IpopConfig>\n")},
	{name: "ipop-beyond-the-credential", image: xmlWith(IPOPXMLFile, "", "<IpopConfig>\n  <IpopNamespace>lab</IpopNamespace>\n  <VirtualNetworkDevice>eth0</VirtualNetworkDevice>\n</IpopConfig>\n")},
	{name: "ipop-strict", image: xmlWith(IPOPXMLFile, "", `<IpopConfig version="9">
  <IpopNamespac>Generic</IpopNamespac>
  <EndToEndSecurity>true</EndToEndSecurity>
  <AddressData>oak</AddressData>
  <EnableMulticast>maybe</EnableMulticast>
  <EnableMulticast>true</EnableMulticast>
  <VirtualNetworkDevice></VirtualNetworkDevice>
</IpopConfig>
<More/>
`)},
	{name: "ipop-cut-off", image: xmlWith(IPOPXMLFile, "", "<IpopConfig>\n  <IpopNamespace>Generic</IpopNamespace>\n")},
	{name: "ipop-doctype", image: xmlWith(IPOPXMLFile, "", "<!DOCTYPE x [<!ENTITY e SYSTEM \"file:///etc/passwd\">]>\n<IpopConfig><IpopNamespace>&e;</IpopNamespace></IpopConfig>\n")},
	{name: "ipop-encoding", image: xmlWith(IPOPXMLFile, "", "<?xml version=\"1.0\" encoding=\"windows-1252\"?>\n<IpopConfig/>\n")},
	{name: "ipop-is-dhcp", image: xmlWith(IPOPXMLFile, "", "<DHCPServerConfig/>\n")},
	{name: "dhcp-differs", image: xmlWith(DHCPXMLFile, "", dhcpText("Generic", "255.0.0.0", "5.0.0.0", "5.255.255.255", "7200"))},
	{name: "dhcp-other-namespace", image: xmlWith(DHCPXMLFile, "", dhcpText("Archer", "255.255.0.0", "10.250.0.0", "10.250.255.255", "3600"))},
	{name: "dhcp-values", image: xmlWith(DHCPXMLFile, "", strings.Replace(dhcpText("Generic", "255.0.255.0", "10.250.0.0", "10.250.x.y", "soon"), "<ip>0.0.0.1</ip>", "", 1))},
	{name: "dhcp-pool", image: xmlWith(DHCPXMLFile, "", dhcpText("Generic", "255.255.0.0", "10.250.0.0", "10.250.0.99", "3600"))},
	{name: "dhcp-incomplete", image: xmlWith(DHCPXMLFile, "", "<DHCPServerConfig>\n  <Namespace>Generic</Namespace>\n</DHCPServerConfig>\n")},
	{name: "everything-at-once", at: now.AddDate(1, 0, 0), image: func(t testing.TB, w *world) []byte {
		image := rawImage(t, with(w.master, config("client", "rolle = 1\n[network]\nhostname = \"master-9\"\n"),
			File{"GRID.TML~", []byte("x")}, File{"NOTES.TXT", []byte("x")}, File{DHCPXMLFile, []byte("<x/>")}))
		link(image, 2, 2)
		return image
	}},
}

func dhcpText(namespace, mask, lower, upper, lease string) string {
	return `<DHCPServerConfig>
  <Namespace>` + namespace + `</Namespace>
  <netmask>` + mask + `</netmask>
  <pool>
    <lower>` + lower + `</lower>
    <upper>` + upper + `</upper>
  </pool>
  <DHCPReservedIPs>
    <DHCPReservedIP>
      <ip>0.0.0.1</ip>
      <mask>0.0.0.255</mask>
    </DHCPReservedIP>
  </DHCPReservedIPs>
  <leasetime>` + lease + `</leasetime>
</DHCPServerConfig>
`
}

// tamper changes one byte near the end of a PEM text's last block: of a
// certificate, in its signature.
func tamper(text []byte) []byte {
	block, _ := pem.Decode(text)
	block.Bytes[len(block.Bytes)-4] ^= 1
	return pem.EncodeToMemory(block)
}

// changeDescriptor changes the lease time in a signed descriptor.
func changeDescriptor(text []byte) []byte {
	block, rest := pem.Decode(text)
	block.Bytes = bytes.Replace(block.Bytes, []byte(`"lease_time":3600`), []byte(`"lease_time":3601`), 1)
	return append(pem.EncodeToMemory(block), rest...)
}

// randomPart is what differs from one test run to the next in a message: keys
// and their identifiers.
var randomPart = regexp.MustCompile(`[0-9a-f]{16,}`)

// TestBrokenFloppies: what builder floppy check and firstboot say of each.
func TestBrokenFloppies(t *testing.T) {
	w := newWorld(t)
	known := map[string]bool{}
	for _, list := range [][]broken{brokenDisks, brokenFiles, brokenConfigs, brokenCredentials, brokenXML} {
		for _, b := range list {
			known[b.name+".golden"] = true
			t.Run(b.name, func(t *testing.T) {
				at := b.at
				if at.IsZero() {
					at = now
				}
				_, err := CheckImage("x.img", b.image(t, w), at)
				l := diag.Of(err)
				if len(l) == 0 {
					t.Fatalf("nothing is found wrong (error %v)", err)
				}
				for _, p := range l {
					if p.File == "" || p.Message == "" {
						t.Errorf("a problem without file or message: %+v", p)
					}
				}
				text := l.Format()
				for _, secret := range []string{HolderKeyFile, NodeKeyFile, IssuerKeyFile} {
					for _, f := range append(append([]File{}, w.alice...), w.master...) {
						if f.Name == secret && strings.Contains(text, string(f.Data[40:80])) {
							t.Errorf("a key is shown:\n%s", text)
						}
					}
				}
				golden(t, filepath.Join("testdata", "broken", b.name+".golden"), randomPart.ReplaceAll([]byte(text), []byte("<id>")))
			})
		}
	}
	if len(known) < 40 {
		t.Errorf("%d broken floppies, at least 40 wanted", len(known))
	}
	entries, err := os.ReadDir("testdata/broken")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !known[e.Name()] {
			t.Errorf("testdata/broken/%s belongs to no floppy", e.Name())
		}
	}
}
