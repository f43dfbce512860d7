package compose

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gridappliance/internal/need"
	"gridappliance/internal/sysrun"
)

func stanza(name, version string) string {
	return "Package: " + name + "\nStatus: install ok installed\nArchitecture: amd64\nVersion: " + version + "\n"
}

func join(parts ...string) []byte { return []byte(strings.Join(parts, "\n")) }

const status = "var/lib/dpkg/status"

// TestMerge walks every case of a record: in was, mine, now or not, changed
// by the machine or by the layers.
func TestMerge(t *testing.T) {
	was := join(stanza("kept", "1"), stanza("newer", "1"), stanza("mine", "1"), stanza("both", "1"), stanza("removed", "1"), stanza("dropped", "1"), stanza("dropped-mine", "1"))
	mine := join(stanza("kept", "1"), stanza("newer", "1"), stanza("mine", "2"), stanza("both", "2"), stanza("dropped", "1"), stanza("dropped-mine", "2"), stanza("added", "1"))
	now := join(stanza("kept", "1"), stanza("newer", "3"), stanza("mine", "1"), stanza("both", "3"), stanza("removed", "1"), stanza("fresh", "1"))
	want := join(stanza("kept", "1"), stanza("newer", "3"), stanza("mine", "2"), stanza("both", "2"), stanza("fresh", "1"), stanza("dropped-mine", "2"), stanza("added", "1"), "")
	got := Merge(status, was, mine, now)
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if again := Merge(status, was, got, now); string(again) != string(got) {
		t.Errorf("merged again:\n%s", cmp.Diff(string(got), string(again)))
	}
	if same := Merge(status, now, mine, now); string(same) != string(mine) {
		t.Error("on the same layers the machine's file changed")
	}
}

// TestModules: what Delta takes out, Join puts on another base.
func TestModules(t *testing.T) {
	tests := []struct{ path, base, a, b, other, want string }{
		{status, string(join(stanza("base", "1"))), string(join(stanza("base", "1"), stanza("a", "1"))), string(join(stanza("base", "1"), stanza("b", "1"))),
			string(join(stanza("base", "2"), stanza("more", "1"))), string(join(stanza("base", "2"), stanza("more", "1"), stanza("a", "1"), stanza("b", "1"), ""))},
		{"etc/group", "sudo:x:27:\nusers:x:100:\n", "sudo:x:27:griduser\nusers:x:100:\nredis:x:101:\n", "sudo:x:27:slot1\nusers:x:100:\n",
			"sudo:x:27:root\nusers:x:100:\n", "sudo:x:27:root,griduser,slot1\nusers:x:100:\nredis:x:101:\n"},
		{"var/lib/dpkg/triggers/File", "/a libc-bin\n", "/a libc-bin\n/b man-db\n", "/a libc-bin\n/c x\n", "/a libc-bin\n", "/a libc-bin\n/b man-db\n/c x\n"},
		{"var/lib/dpkg/diversions", "", "/usr/bin/x\n/usr/bin/x.real\npkg\n", "/usr/bin/y\n/usr/bin/y.real\npkg\n", "",
			"/usr/bin/x\n/usr/bin/x.real\npkg\n/usr/bin/y\n/usr/bin/y.real\npkg\n"},
		{"var/lib/dpkg/alternatives/editor", editor("nano 40"), editor("nano 40", "vim 50"), editor("nano 40", "emacs 60"), editor("ed 1", "nano 40"),
			editor("ed 1", "emacs 60", "nano 40", "vim 50")},
	}
	for _, tt := range tests {
		t.Run(tt.path, func(t *testing.T) {
			a, b := Delta(tt.path, []byte(tt.base), []byte(tt.a)), Delta(tt.path, []byte(tt.base), []byte(tt.b))
			got := Join(tt.path, []byte(tt.other), a, b)
			if diff := cmp.Diff(tt.want, string(got)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// editor is an alternative with choices "NAME PRIORITY"; each has one slave.
func editor(choices ...string) string {
	s := "auto\n/usr/bin/editor\neditor.1.gz\n/usr/share/man/man1/editor.1.gz\n\n"
	for _, c := range choices {
		name, priority, _ := strings.Cut(c, " ")
		s += "/bin/" + name + "\n" + priority + "\n/usr/share/man/man1/" + name + ".1.gz\n"
	}
	return s + "\n"
}

func TestAlternativeLinks(t *testing.T) {
	got := AlternativeLinks("var/lib/dpkg/alternatives/editor", []byte(editor("emacs 60", "nano 40")))
	want := map[string]string{"etc/alternatives/editor": "/bin/emacs", "usr/bin/editor": "/etc/alternatives/editor",
		"etc/alternatives/editor.1.gz": "/usr/share/man/man1/emacs.1.gz", "usr/share/man/man1/editor.1.gz": "/etc/alternatives/editor.1.gz"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if got := AlternativeLinks("x/editor", []byte(strings.Replace(editor("nano 40"), "auto", "manual", 1))); got != nil {
		t.Errorf("a manual alternative: %v", got)
	}
}

// TestPlace: an account's number depends on its name, not on its neighbours;
// nobody gets a number that is taken.
func TestPlace(t *testing.T) {
	known := Accounts{map[string]uint32{"root": 0, "condor": 808}, map[string]uint32{"root": 0, "condor": 808}}
	alone := Place(known, []string{"redis"}).Users["redis"]
	both := Place(known, []string{"mosquitto", "redis", "condor"})
	if both.Users["redis"] != alone || both.Users["condor"] != 808 || both.Users["mosquitto"] == alone {
		t.Errorf("alone %d, beside others %v", alone, both.Users)
	}
	known.Users["thief"] = alone
	if got := Place(known, []string{"redis"}).Users["redis"]; got != alone+1 {
		t.Errorf("with its number taken it gets %d", got)
	}
	var many []string
	for i := range placeCount + 10 {
		many = append(many, strings.Repeat("x", i+1))
	}
	seen := map[uint32]bool{}
	for _, id := range Place(known, many).Users {
		if seen[id] || id < placeFirst || id >= placeFirst+placeCount {
			t.Fatalf("number %d", id)
		}
		seen[id] = true
	}
}

// TestLoaderCache compares with what ldconfig itself reads.
func TestLoaderCache(t *testing.T) {
	b, err := os.ReadFile("/etc/ld.so.cache")
	if err != nil {
		t.Skip(err)
	}
	extra := renderLoaderCache([]record{{"libgrid.so.12 771", "/opt/grid/libgrid.so.12"}, {"libgrid.so.9 771", "/opt/grid/libgrid.so.9"}})
	name := filepath.Join(t.TempDir(), "cache")
	if err := os.WriteFile(name, Join("etc/ld.so.cache", b, extra), 0o644); err != nil {
		t.Fatal(err)
	}
	list := func(args ...string) []string {
		out, err := sysrun.Output(t.Context(), need.Tool(t, "ldconfig"), args...)
		if err != nil {
			t.Fatal(err)
		}
		var keep []string
		for _, l := range strings.Split(string(out), "\n") {
			if strings.Contains(l, "=>") && !strings.Contains(l, "hwcap") {
				keep = append(keep, l)
			}
		}
		return keep
	}
	want := list("-p")
	var got []string
	for _, l := range list("-p", "-C", name) {
		if !strings.Contains(l, "libgrid") {
			got = append(got, l)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ldconfig -p -want +got:\n%s", diff)
	}
	if all := strings.Join(list("-p", "-C", name), "\n"); !strings.Contains(all, "/opt/grid/libgrid.so.9") {
		t.Errorf("libgrid is missing in\n%s", all)
	}
}

// FuzzMerge: any text is merged without a panic, and merging twice is merging
// once.
func FuzzMerge(f *testing.F) {
	f.Add(0, []byte("a:x:1:\n"), []byte("a:x:2:\nb:x:3:c\n"), []byte("a:x:1:d\n"))
	f.Add(13, []byte(editor("a 1")), []byte(editor("a 1", "b 2")), []byte(editor("c 3")))
	f.Add(10, []byte("/bin/a\n/bin/a.x\n:\n"), []byte("/bin/a\n/bin/a.y\n:\n/bin/b\n/bin/b.y\n"), []byte("/bin/b\n/bin/b.x\n:\n/bin/c\n"))
	f.Fuzz(func(t *testing.T, kind int, was, mine, now []byte) {
		p := strings.NewReplacer("[A-Za-z]*", "File", "*", "x").Replace(shared[uint(kind)%uint(len(shared))].pattern)
		Join(p, was, Delta(p, was, mine), Delta(p, was, now))
		once := Merge(p, was, mine, now)
		if again := Merge(p, was, once, now); string(Merge(p, was, again, now)) != string(again) {
			t.Errorf("%s: %q then %q", p, once, again)
		}
	})
}
