package base

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var sum = strings.Repeat("0123456789abcdef", 4)

func testLock() *Lock {
	return &Lock{
		Suite: "trixie", Time: time.Date(2026, 9, 12, 7, 55, 41, 0, time.UTC),
		Base: []Package{
			{"adduser", "3.152", "all", sum, 190932, "pool/main/a/adduser/adduser_3.152_all.deb", ""},
			{"libc6", "2.41-12+deb13u4", "amd64", sum, 2846580, "pool/main/g/glibc/libc6_2.41-12+deb13u4_amd64.deb", ""},
		},
		Tools: []Package{{"squashfs-tools", "1:4.6.1-1", "amd64", sum, 1, "pool/main/s/squashfs-tools/squashfs-tools_4.6.1-1_amd64.deb", ""}},
	}
}

func TestLockRoundTrip(t *testing.T) {
	want := testLock()
	got, err := ParseLock("base.lock", want.Text())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestParseLockErrors(t *testing.T) {
	good := string(testLock().Text())
	tests := []struct{ name, from, to, want string }{
		{"empty", good, "", "base.lock: the lock ends before its [tools] section"},
		{"header", "lock 1", "lock 2", `base.lock:1: the first line is not "grid-base-lock 1"`},
		{"suite", "suite trixie", "suite ../x", `base.lock:2: not a line "suite NAME"`},
		{"time zone", "41Z", "41+01:00", "base.lock:3: not a line"},
		{"no base", "[base]\n", "", "base.lock:4: not the line [base]"},
		{"no tools", "[tools]\n", "", `"squashfs-tools" does not come`},
		{"order", "adduser 3", "zadduser 3", `base.lock:6: "libc6" does not come after "zadduser"`},
		{"twice", "adduser 3", "libc6 3", `base.lock:6: "libc6" does not come after "libc6"`},
		{"name", "adduser 3", "Adduser 3", `base.lock:5: "Adduser" is not a package's name`},
		{"version", "3.152", "3;152", `"3;152" is not a package's version`},
		{"architecture", " all ", " i386 ", `"i386" is not a package's architecture`},
		{"hash", sum, sum[1:], "is not a package's sha256"},
		{"size zero", " 190932 ", " 0 ", `"0" is not a size in bytes`},
		{"size with zeros", " 190932 ", " 0190932 ", `"0190932" is not a size in bytes`},
		{"size too large", " 190932 ", " 99999999999 ", `"99999999999" is not a size in bytes`},
		{"path climbs", "pool/main/a/", "pool/../a/", "is not a path below a mirror"},
		{"path absolute", "pool/main/a/", "/pool/a/", "is not a path below a mirror"},
		{"two spaces", "adduser 3", "adduser  3", "7 fields instead of"},
		{"carriage return", "all.deb\n", "all.deb\r\n", "is not a path below a mirror"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			text := strings.Replace(good, tt.from, tt.to, 1)
			if text == good {
				t.Fatal("the case changes nothing")
			}
			_, err := ParseLock("base.lock", []byte(text))
			if tt.name == "no tools" {
				if err == nil {
					t.Fatal("accepted")
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v\nwant %s", err, tt.want)
			}
		})
	}
}

func TestLockComments(t *testing.T) {
	text := strings.Replace(string(testLock().Text()), "[tools]\n", "\n# why\n[tools]\n", 1)
	if _, err := ParseLock("base.lock", []byte(text)); err != nil {
		t.Error(err)
	}
}

func FuzzParseLock(f *testing.F) {
	f.Add(testLock().Text())
	f.Add([]byte("grid-base-lock 1\nsuite trixie\ntime 2026-09-12T07:55:41Z\n[base]\n[tools]\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		lock, err := ParseLock("base.lock", text)
		if err != nil {
			return
		}
		again, err := ParseLock("base.lock", lock.Text())
		if err != nil {
			t.Fatalf("its own text is refused: %v", err)
		}
		if !bytes.Equal(lock.Text(), again.Text()) {
			t.Fatal("not the same again")
		}
		for _, p := range unique(lock.Base, lock.Tools) {
			if strings.Contains(p.Path, "..") || strings.HasPrefix(p.Path, "/") {
				t.Fatalf("path %q", p.Path)
			}
		}
	})
}
