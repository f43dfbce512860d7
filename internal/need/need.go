// Package need lets a test say what it needs from the machine. Where that is
// absent the test is skipped with the reason, unless the environment variable
// REQUIRE names the need (REQUIRE=root,tools,netns,container,vm): then the
// test fails, so that CI cannot pass by skipping.
//
// Only tests import it.
package need

import (
	"os"
	"strings"
	"testing"

	"gridappliance/internal/sysrun"
)

// Tool needs external programs (REQUIRE=tools) and returns the path of the first.
func Tool(t testing.TB, names ...string) string {
	t.Helper()
	first := ""
	for _, n := range names {
		path, err := sysrun.Find(n)
		if err != nil {
			lack(t, "tools", "the program "+n+" is not installed")
		}
		if first == "" {
			first = path
		}
	}
	return first
}

// Root needs uid 0 (REQUIRE=root).
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		lack(t, "root", "not running as root")
	}
}

// Netns needs network namespaces and /dev/net/tun (REQUIRE=netns).
func Netns(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		lack(t, "netns", "making network namespaces needs root")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		lack(t, "netns", "no /dev/net/tun")
	}
	if _, err := sysrun.Find("ip"); err != nil {
		lack(t, "netns", "the program ip is not installed")
	}
}

// Container needs systemd-nspawn as root and a base in the store
// (REQUIRE=container). It returns the base's directory.
func Container(t testing.TB) string {
	t.Helper()
	if os.Geteuid() != 0 {
		lack(t, "container", "systemd-nspawn needs root")
	}
	if _, err := sysrun.Find("systemd-nspawn"); err != nil {
		lack(t, "container", "systemd-nspawn is not installed")
	}
	return base(t, "container")
}

// VM needs QEMU and a base in the store (REQUIRE=vm). It returns the base's
// directory.
func VM(t testing.TB) string {
	t.Helper()
	for _, n := range []string{"qemu-system-x86_64", "qemu-img"} {
		if _, err := sysrun.Find(n); err != nil {
			lack(t, "vm", n+" is not installed")
		}
	}
	return base(t, "vm")
}

// Base needs a built base (REQUIRE=base) and returns its directory.
func Base(t testing.TB) string {
	t.Helper()
	return base(t, "base")
}

// base returns the directory named by GRID_BASE, which make test sets.
func base(t testing.TB, what string) string {
	t.Helper()
	dir := os.Getenv("GRID_BASE")
	if dir == "" {
		lack(t, what, "GRID_BASE does not name a built base (make base prints it)")
	}
	if _, err := os.Stat(dir + "/manifest.json"); err != nil {
		lack(t, what, "GRID_BASE: "+err.Error())
	}
	return dir
}

// Long skips a test that takes minutes, except under make test-long, which
// sets LONG=1.
func Long(t testing.TB) {
	t.Helper()
	if os.Getenv("LONG") == "" {
		t.Skip("long: run by make test-long")
	}
}

func lack(t testing.TB, what, why string) {
	t.Helper()
	for _, r := range strings.Split(os.Getenv("REQUIRE"), ",") {
		if r == what {
			t.Fatalf("REQUIRE=%s, but %s", what, why)
		}
	}
	t.Skip(why)
}
