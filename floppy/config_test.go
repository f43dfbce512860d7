package floppy

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var ignorePositions = cmpopts.IgnoreUnexported(Config{})

// mustDecode decodes and applies the defaults.
func mustDecode(t testing.TB, text []byte) *Config {
	t.Helper()
	c, err := DecodeConfig("t", text)
	if err != nil {
		t.Fatal(err)
	}
	c.ApplyDefaults()
	return c
}

func TestDecodeConfigRoleIsEnough(t *testing.T) {
	got := mustDecode(t, []byte("version = 1\n[machine]\nrole = \"worker\"\n"))
	want := &Config{
		Version: 1,
		Machine: Machine{Role: RoleWorker, Timezone: "Etc/UTC", Console: ConsoleLogin},
		Network: Network{Mode: ModeHost, Device: "tapipop", Multicast: true},
		Condor:  Condor{Masters: Choice{All: true}, Flock: Choice{All: true}, OwnerPreempts: true},
		Share:   Share{Export: "/mnt/local", Autofs: true},
	}
	if d := cmp.Diff(want, got, ignorePositions); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestDecodeConfigEveryKey(t *testing.T) {
	want := &Config{
		Version: 1,
		Machine: Machine{Role: RoleClient, Timezone: "Europe/Zurich", Console: ConsoleOff},
		Network: Network{Namespace: "archer", Mode: ModeRouter, Hostname: "oak", Device: "tap0", MTU: 1400, LANInterface: "eth1", Bootstrap: []string{"a.example:1"}},
		Condor:  Condor{Group: "physics", User: "alice", Masters: Choice{Names: []string{"C250000002.ipop"}}, Slots: 2},
		Users:   Users{Names: []string{"bob"}},
		Modules: []Module{{Source: "/a", SHA256: "1"}, {Source: "/b", SHA256: "2"}},
	}
	for name, text := range map[string]string{
		"tables": `version = 1
[machine]
role = "client"
timezone = "Europe/Zurich"
console = "off"
[network]
namespace = "archer"
mode = "router"
hostname = "oak"
device = "tap0"
multicast = false
mtu = 1_400
lan-interface = "eth1"
bootstrap = ["a.example:1"]
[condor]
group = "physics"
user = "alice"
masters = ["C250000002.ipop"]
flock = false
owner-preempts = false
slots = 2
[share]
export = ""
autofs = false
[users]
names = ["bob"]
[[modules]]
source = "/a"
sha256 = "1"
[[modules]]
source = "/b"
sha256 = "2"
`,
		"inline and dotted": `version = 1
machine = { role = "client", timezone = "Europe/Zurich", console = "off" }
network.namespace = "archer"
network.mode = "router"
network.hostname = 'oak'
network.device = "tap0"
network.multicast = false
network.mtu = 0x578
network.lan-interface = "eth1"
network.bootstrap = [ # a comment
  "a.example:1",
]
modules = [{ source = "/a", sha256 = "1" }, { source = "/b", sha256 = "2" }]
users.names = ["bob"]
share = { export = "", autofs = false }
[condor]
group = "physics"
user = "alice"
masters = ["C250000002.ipop"]
flock = false
owner-preempts = false
slots = 2`,
	} {
		t.Run(name, func(t *testing.T) {
			got, err := DecodeConfig("t", []byte(text))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, got, ignorePositions); d != "" {
				t.Errorf("decoded (-want +got):\n%s", d)
			}
			if got.ApplyDefaults(); got.Network.Multicast || got.Share.Autofs || got.Share.Export != "" || got.Condor.Flock.All {
				t.Errorf("a default replaced what was set: %+v", got)
			}
		})
	}
}

// TestDecodeConfigWindows: what editors on Windows add changes nothing.
func TestDecodeConfigWindows(t *testing.T) {
	text := "version = 1\n\n[machine]\nrole = \"worker\"\n"
	windows := "\xEF\xBB\xBF" + strings.ReplaceAll(text, "\n", "\r\n")
	if d := cmp.Diff(mustDecode(t, []byte(text)), mustDecode(t, []byte(windows)), ignorePositions); d != "" {
		t.Error(d)
	}
	_, err := DecodeConfig("t", []byte(windows+"rol = 1\r\n"))
	if err == nil || !strings.HasPrefix(err.Error(), "t:5:1: machine.rol: unknown key") {
		t.Errorf("position behind a byte order mark and CRLF: %v", err)
	}
}

func TestSetKey(t *testing.T) {
	const text = "# mine\nversion = 1 # one\n\n[machine]\nrole = \"worker\" # yes\n#timezone = \"Etc/UTC\"\n\n[network]\n"
	for _, c := range []struct{ setting, want string }{
		{"machine.role=client", strings.Replace(text, `"worker"`, `"client"`, 1)},
		{"machine.timezone=Europe/Zurich", strings.Replace(text, `#timezone = "Etc/UTC"`, `timezone = "Europe/Zurich"`, 1)},
		{"machine.console=off", strings.Replace(text, "[machine]\n", "[machine]\nconsole = \"off\"\n", 1)},
		{"network.mtu=1400", text + "mtu = 1400\n"},
		{"share.autofs=false", text[:len(text)-1] + "\n\n[share]\nautofs = false\n"},
		{"users.names=alice, bob", text[:len(text)-1] + "\n\n[users]\nnames = [\"alice\", \"bob\"]\n"},
		{"condor.flock=true", text[:len(text)-1] + "\n\n[condor]\nflock = true\n"},
		{"condor.masters=discover", text[:len(text)-1] + "\n\n[condor]\nmasters = \"discover\"\n"},
		{`condor.masters=["C250000002.ipop"]`, text[:len(text)-1] + "\n\n[condor]\nmasters = [\"C250000002.ipop\"]\n"},
		{"version=1", text},
	} {
		t.Run(c.setting, func(t *testing.T) {
			path, value, err := SplitSetting(c.setting)
			if err != nil {
				t.Fatal(err)
			}
			got, err := SetKey("t", []byte(text), path, value)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, string(got)); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			mustDecode(t, got)
		})
	}
	if _, err := SetKey("t", []byte(text), "network.mtv", "1"); err == nil || !strings.Contains(err.Error(), `did you mean "mtu"?`) {
		t.Errorf("unknown key: %v", err)
	}
}

// FuzzDecodeConfig: no panic, no Go type names, a position for every problem
// that has a line, and nothing a terminal would obey.
func FuzzDecodeConfig(f *testing.F) {
	for _, tm := range templates {
		f.Add(tm.text())
	}
	f.Add([]byte("version = 2\n"))
	f.Add([]byte("machine.role = 1\n[machine]\n[[machine]]\n[modules]\nx = { a = [1] }"))
	f.Add([]byte("version = 1\r\nnetwork = 3\n[network]\nmtu = 99999999999999999999\nmtu = 1979-05-27\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := DecodeConfig("t", text)
		if err != nil {
			message := err.Error()
			for _, leak := range []string{"floppy.", "[]string", "struct", "reflect", "interface {", "int64", "map["} {
				if strings.Contains(message, leak) && !strings.Contains(string(text), leak) {
					t.Fatalf("%q in %q", leak, message)
				}
			}
			if strings.ContainsAny(message, "\x1b\x07\x00") {
				t.Fatalf("control characters in %q", message)
			}
			return
		}
		c.ApplyDefaults()
		_ = c.Validate().Format()
	})
}
