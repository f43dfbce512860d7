package names

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gridappliance/internal/need"
	"gridappliance/internal/netlab"
)

// TestRealClients asks as people and programs do: dig on the address, getent
// (the C library's own resolver) with the server in /etc/resolv.conf.
//
//	node 10.250.0.2, 192.0.2.1 ---- 192.0.2.2, 10.250.9.9 other
func TestRealClients(t *testing.T) {
	need.Tool(t, "dig", "getent")
	lab := netlab.New(t)
	node, other := lab.Node("node"), lab.Node("other")
	lab.Cable(node, "192.0.2.1/24", other, "192.0.2.2/24")
	node.Run("ip", "link", "add", "tapipop", "type", "bridge")
	node.Run("ip", "link", "set", "tapipop", "up")

	s := New(world{})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go node.Do(func() {
		l, err := s.Listen(ctx, zone, netip.MustParseAddrPort("10.250.0.2:53"))
		if err == nil {
			err = l.Serve(ctx)
		}
		ended <- err
	})
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	time.Sleep(2 * bindAgain)                                           // the server is there before its address
	node.Run("ip", "address", "add", "10.250.0.2/16", "dev", "tapipop") // and needs no telling
	other.Run("ip", "address", "add", "10.250.9.9/32", "dev", "lo")
	node.Run("ip", "route", "add", "10.250.9.9", "via", "192.0.2.2")

	dig := func(from *netlab.Node, args ...string) string {
		t.Helper()
		out, _ := from.Try(append([]string{"dig", "@10.250.0.2", "+tries=2", "+time=3"}, args...)...)
		return out
	}
	for deadline := time.Now().Add(bindTime); !strings.Contains(dig(node, "C250000002.ipop", "+short"), "10.250.0.2\n"); {
		if time.Now().After(deadline) {
			t.Fatal("no answer after the address has come")
		}
	}
	for question, want := range map[string]string{
		"C250003007.ipop A +short":                        "10.250.3.7\n",
		"pC.IpOp A +short":                                "10.250.3.7\n",
		"pc.ipop AAAA +short":                             "fd12:3456:789a::7\n",
		"-x 10.250.3.7 +short":                            "C250003007.ipop.\n",
		"-x fd12:3456:789a::7 +short":                     "C250003007.ipop.\n",
		"_collector._tcp.ipop SRV +short":                 "0 5 9618 C250000002.ipop.\n",
		"pc.ipop A +short +tcp":                           "10.250.3.7\n",
		"_many._tcp.ipop SRV +short +noall":               "", // cut off over UDP: dig asks again over TCP
		"nobody.ipop A +noall +comments":                  "status: NXDOMAIN",
		"pc.ipop MX +noall +comments":                     "status: NOERROR",
		"example.com A +noall +comments":                  "status: REFUSED",
		"pc.ipop A +noall +comments +edns=1":              "BADVERS, retrying",
		"pc.ipop A +noall +comments +subnet=192.0.2.0/24": "status: NOERROR",
		"pc.ipop A +noall +comments +cookie":              "status: NOERROR",
		"ipop AXFR":                                       "Transfer failed",
		"nobody.ipop A +noall +authority +nottlunits":     "5\tIN\tSOA",
	} {
		if got := dig(node, strings.Fields(question)...); !strings.Contains(got, want) || want == "" && got != "" {
			t.Errorf("dig %s: %q, want %q", question, got, want)
		}
	}
	if got := dig(node, "_many._tcp.ipop", "SRV", "+short"); strings.Count(got, "\n") != 60 {
		t.Errorf("dig of a long answer: %d lines, want 60", strings.Count(got, "\n"))
	}

	// Who asks from an address of the virtual network is answered, who does not
	// is not.
	other.Run("ip", "route", "add", "10.250.0.2", "via", "192.0.2.1", "src", "10.250.9.9")
	if got := dig(other, "pc.ipop", "+short"); got != "10.250.3.7\n" {
		t.Errorf("a member is answered %q", got)
	}
	before := s.Counters()
	if got := dig(other, "-b", "192.0.2.2", "+tries=1", "+time=1", "pc.ipop", "+short"); !strings.Contains(got, "timed out") && !strings.Contains(got, "no servers") {
		t.Errorf("a stranger is answered %q", got)
	}
	if after := s.Counters(); after.Strange == before.Strange || after.Answered != before.Answered {
		t.Errorf("counters before %+v, after %+v: want Strange to grow alone", before, after)
	}

	resolvConf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(resolvConf, []byte("nameserver 10.250.0.2\nsearch ipop\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	nsswitch := filepath.Join(t.TempDir(), "nsswitch.conf")
	if err := os.WriteFile(nsswitch, []byte("hosts: dns\nservices: files\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for question, want := range map[string]string{
		"hosts C250003007":        "C250003007.ipop",
		"hosts pc":                "fd12:3456:789a::7 pc.ipop",
		"ahostsv4 PC":             "10.250.3.7",
		"ahosts old":              "10.250.3.8",
		"hosts 10.250.3.7":        "10.250.3.7      C250003007.ipop",
		"hosts fd12:3456:789a::7": "C250003007.ipop",
	} {
		p := node.StartMounted(map[string]string{"/etc/resolv.conf": resolvConf, "/etc/nsswitch.conf": nsswitch},
			append([]string{"getent"}, strings.Fields(question)...)...)
		if code := p.Wait(20 * time.Second); code != 0 || !strings.Contains(p.Output(), want) {
			t.Errorf("getent %s: exit %d, %q, want %q", question, code, p.Output(), want)
		}
	}
	p := node.StartMounted(map[string]string{"/etc/resolv.conf": resolvConf, "/etc/nsswitch.conf": nsswitch}, "getent", "hosts", "nobody")
	began := time.Now()
	if code := p.Wait(20 * time.Second); code != 2 || time.Since(began) > 3*time.Second {
		t.Errorf("getent of nobody: exit %d after %v, want 2 at once", code, time.Since(began))
	}
}
