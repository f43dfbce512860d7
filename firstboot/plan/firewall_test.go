package plan

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gridappliance/internal/need"
	"gridappliance/internal/netlab"
)

// The machine of TestRulesHold, and who uses it.
const (
	job, person, root = 901, 1000, 0
	patience          = 500 * time.Millisecond // on a cable of no length
)

// TestRulesHold sends packets at a machine and from it, first without the
// rules, when everything must arrive, then with them.
//
//	world 192.0.2.2 ---------- eth0 192.0.2.1  machine  tapipop 10.250.0.2/16
//	also 10.250.0.99, 10.250.9.9, 169.254.169.254
func TestRulesHold(t *testing.T) {
	lab := netlab.New(t)
	nft := need.Tool(t, "nft", "setpriv", "timeout", "bash")
	machine, world := lab.Node("machine"), lab.Node("world")
	lab.Cable(machine, "192.0.2.1/24", world, "192.0.2.2/24")
	for _, c := range [][]string{
		{"ip", "link", "add", "tapipop", "type", "veth", "peer", "name", "far"},
		{"ip", "link", "set", "far", "up"},
		{"ip", "address", "add", "10.250.0.2/16", "dev", "tapipop"},
		{"ip", "link", "set", "tapipop", "up"},
		{"ip", "route", "add", "default", "via", "192.0.2.2"},
		{"ip", "route", "add", "10.250.9.9", "via", "192.0.2.2"},
		{"sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.eth0.rp_filter=0"}, // the rules alone are judged
	} {
		machine.Run(c...)
	}
	for _, a := range []string{"10.250.0.99/32", "10.250.9.9/32", "169.254.169.254/32"} {
		world.Run("ip", "address", "add", a, "dev", "eth0")
	}
	world.Run("ip", "route", "add", "10.250.0.2", "via", "192.0.2.1")
	listen(t, machine, "192.0.2.1:22", "192.0.2.1:9618", "10.250.0.2:22", "10.250.0.2:4243", "10.250.0.2:9618")
	listen(t, world, "192.0.2.2:80", "10.250.9.9:80", "169.254.169.254:80")

	in := []struct {
		why, from, to string
		arrives       bool
	}{
		{"the overlay", "192.0.2.2", "192.0.2.1:4242", true},
		{"another port", "192.0.2.2", "192.0.2.1:5000", false},
		{"from a virtual address outside", "10.250.0.99", "192.0.2.1:4242", false},
		{"to the virtual address from outside", "192.0.2.2", "10.250.0.2:4242", false},
	}
	out := []struct {
		why     string
		uid     int
		to      string
		arrives bool
	}{
		{"a job goes out", job, "192.0.2.2:80", false},
		{"a person goes out", person, "192.0.2.2:80", true},
		{"a job reaches HTCondor", job, "10.250.0.2:9618", true},
		{"a job reaches ssh", job, "10.250.0.2:22", false},
		{"a job reaches the issuer", job, "10.250.0.2:4243", false},
		{"a person reaches ssh", person, "10.250.0.2:22", true},
		{"a person reaches the issuer", person, "10.250.0.2:4243", false},
		{"root reaches the issuer", root, "10.250.0.2:4243", true},
		{"a person reaches the cloud's metadata", person, "169.254.169.254:80", false},
		{"root reaches the cloud's metadata", root, "169.254.169.254:80", true},
		{"a virtual address outside", root, "10.250.9.9:80", false},
	}
	check := func(rules bool) {
		for _, c := range in {
			if got, want := received(t, machine, world, c.from, c.to), c.arrives || !rules; got != want {
				t.Errorf("rules %v: UDP in, %s (%s to %s): arrived %v, want %v", rules, c.why, c.from, c.to, got, want)
			}
		}
		for _, port := range []string{"22", "9618"} {
			if got := connects(world, root, "192.0.2.1:"+port); got == rules {
				t.Errorf("rules %v: TCP in, port %s of the outside: connected %v", rules, port, got)
			}
		}
		for _, c := range out {
			if got, want := connects(machine, c.uid, c.to), c.arrives || !rules; got != want {
				t.Errorf("rules %v: TCP out, %s (uid %d to %s): connected %v, want %v", rules, c.why, c.uid, c.to, got, want)
			}
		}
	}
	check(false)
	file := filepath.Join(t.TempDir(), "grid.nft")
	text := firewall(rulesInput{overlay: true, device: "tapipop", pools: []netip.Prefix{netip.MustParsePrefix("10.250.0.0/16")}, jobs: []int{job}})
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	machine.Run(nft, "-f", file)
	check(true)
}

// listen opens TCP ports that accept and say nothing.
func listen(t *testing.T, n *netlab.Node, addresses ...string) {
	t.Helper()
	n.Do(func() {
		for _, a := range addresses {
			l, err := net.Listen("tcp4", a)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
		}
	})
}

// received says whether a datagram of world reaches the machine.
func received(t *testing.T, machine, world *netlab.Node, from, to string) bool {
	t.Helper()
	var server, client *net.UDPConn
	addr := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to))
	machine.Do(func() {
		var err error
		if server, err = net.ListenUDP("udp4", addr); err != nil {
			t.Fatal(err)
		}
	})
	defer server.Close()
	world.Do(func() {
		var err error
		if client, err = net.DialUDP("udp4", &net.UDPAddr{IP: net.ParseIP(from)}, addr); err != nil {
			t.Fatal(err)
		}
	})
	defer client.Close()
	if _, err := client.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	server.SetReadDeadline(time.Now().Add(patience))
	_, _, err := server.ReadFrom(make([]byte, 1))
	return err == nil
}

// connects says whether an account of n can open a TCP connection.
func connects(n *netlab.Node, uid int, to string) bool {
	a := netip.MustParseAddrPort(to)
	id := fmt.Sprint(uid)
	_, err := n.Try("setpriv", "--reuid="+id, "--regid="+id, "--clear-groups",
		"timeout", fmt.Sprint(patience.Seconds()), "bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/%s/%d", a.Addr(), a.Port()))
	return err == nil
}
