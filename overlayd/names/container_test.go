package names

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"gridappliance/internal/need"
	"gridappliance/internal/netlab"
	"gridappliance/internal/splitdns"
)

// insideVariable makes this test's program the other one: a node's DNS server
// and an upstream server, in a booted base.
const insideVariable = "NAMES_TEST_INSIDE"

// upstream is the server that the host had before, on the loopback address.
const upstream = "127.0.0.9:53"

func TestMain(m *testing.M) {
	if what := os.Getenv(insideVariable); what != "" {
		if err := inside(what); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// inside runs "upstream", or a node that keeps resolved asking it, until
// SIGTERM.
func inside(what string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if what == "upstream" {
		srv := &dns.Server{Addr: upstream, Net: "udp", Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
			m := new(dns.Msg).SetReply(q)
			m.RecursionAvailable = true
			if strings.EqualFold(q.Question[0].Name, "example.com.") && q.Question[0].Qtype == dns.TypeA {
				m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: 1}, A: net.IPv4(192, 0, 2, 80)})
			}
			w.WriteMsg(m)
		})}
		context.AfterFunc(ctx, func() { srv.Shutdown() })
		return srv.ListenAndServe()
	}
	if what == "elsewhere" { // lo is the first link of every network
		splitdns.Keep(ctx, splitdns.Link{Device: "lo", Servers: []netip.Addr{zone.Own.Address}, Search: []string{"ipop"}},
			func(line string) { fmt.Println("DNS: " + line) })
		return nil
	}
	s := New(world{})
	var keeping sync.WaitGroup
	keeping.Go(func() {
		splitdns.Keep(ctx, splitdns.Link{Device: "tapipop", Servers: []netip.Addr{zone.Own.Address}, Search: []string{"ipop"}, Route: zone.Reverse()},
			func(line string) { fmt.Println("DNS: " + line) })
	})
	l, err := s.Listen(ctx, zone, netip.MustParseAddrPort("10.250.0.2:53"))
	if err == nil {
		err = l.Serve(ctx)
	}
	keeping.Wait()
	fmt.Printf("COUNTERS: %+v\n", s.Counters())
	return err
}

// TestSplitDNS has a booted base whose own DNS works, and stays so, while a
// node's names come and go.
func TestSplitDNS(t *testing.T) {
	root := netlab.Root(t, need.Container(t))
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := netlab.Boot(t, root, func(root string) {
		if err := errors.Join(
			copyFile(root+"/usr/lib/grid/names.test", program),
			os.MkdirAll(root+"/etc/systemd/resolved.conf.d", 0o755),
			os.WriteFile(root+"/etc/systemd/resolved.conf.d/test.conf", []byte("[Resolve]\nDNS=127.0.0.9\nDNSSEC=no\nCache=no\n"), 0o644),
		); err != nil {
			t.Fatal(err)
		}
	})
	c.WaitBooted(3 * time.Minute)
	c.Run("ip", "link", "add", "tapipop", "type", "veth", "peer", "name", "other")
	c.Run("ip", "link", "set", "other", "up")
	c.Run("ip", "link", "set", "tapipop", "up")
	c.Run("ip", "address", "add", "10.250.0.2/16", "dev", "tapipop")

	start := func(unit, what, user string, more ...string) {
		t.Helper()
		c.Run(append(append([]string{"systemd-run", "--quiet", "--unit=" + unit, "--uid=" + user, "--property=AmbientCapabilities=CAP_NET_BIND_SERVICE",
			"--setenv=" + insideVariable + "=" + what}, more...), "/usr/lib/grid/names.test")...)
	}
	log := func(unit string) string { return c.Run("journalctl", "--unit="+unit, "--no-pager", "--output=cat") }
	waitLog := func(unit, text string) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !strings.Contains(log(unit), text); time.Sleep(100 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s never said %q:\n%s", unit, text, log(unit))
			}
		}
	}
	try := func(argv ...string) string { out, _ := c.Try(argv...); return strings.TrimSpace(out) }
	hostWorks := func(when string) {
		t.Helper()
		if got := try("getent", "ahostsv4", "example.com"); !strings.HasPrefix(got, "192.0.2.80") {
			t.Errorf("%s: the host's own DNS says %q", when, got)
		}
	}
	// What getent says is by the C library through nss-resolve or the stub.
	names := map[string]string{
		"hosts pc": "pc.ipop", "ahostsv4 C250003007": "10.250.3.7", "hosts 10.250.3.7": "C250003007.ipop",
		"ahostsv4 old.ipop": "10.250.3.8", "hosts fd12:3456:789a::7": "C250003007.ipop",
	}

	start("upstream", "upstream", "root")
	for deadline := time.Now().Add(20 * time.Second); try("getent", "ahostsv4", "example.com") == "" && time.Now().Before(deadline); {
		time.Sleep(100 * time.Millisecond)
	}
	hostWorks("before")
	before := try("resolvectl", "dns", "tapipop") + try("resolvectl", "domain", "tapipop")

	// overlayd's user may not: nothing changes, and it says so.
	start("user", "node", "overlayd")
	waitLog("user", "DNS: systemd-resolved lets only root change it")
	hostWorks("with a node that may not")
	if got := try("resolvectl", "dns", "tapipop") + try("resolvectl", "domain", "tapipop"); got != before {
		t.Errorf("resolved knows %q, before %q", got, before)
	}
	if got := try("getent", "hosts", "pc"); got != "" {
		t.Errorf("pc is %q though nobody asks the node", got)
	}
	c.Run("systemctl", "stop", "user.service")

	// A resolved that serves another network knows other links by the numbers.
	start("elsewhere", "elsewhere", "root", "--property=PrivateNetwork=yes")
	waitLog("elsewhere", "DNS: systemd-resolved serves another network namespace")
	c.Run("systemctl", "stop", "elsewhere.service")

	start("node", "node", "root")
	waitLog("node", "DNS: systemd-resolved asks 10.250.0.2 about .ipop")
	hostWorks("with names")
	for question, want := range names {
		if got := try(append([]string{"getent"}, strings.Fields(question)...)...); !strings.Contains(got, want) {
			t.Errorf("getent %s: %q, want %q", question, got, want)
		}
	}
	if got := try("resolvectl", "service", "_collector._tcp.ipop"); !strings.Contains(got, "C250000002.ipop") || !strings.Contains(got, "9618") {
		t.Errorf("resolvectl service: %q", got)
	}
	// resolved restarts, and still knows.
	c.Run("systemctl", "restart", "systemd-resolved.service")
	if got := try("getent", "ahostsv4", "pc"); !strings.Contains(got, "10.250.3.7") {
		t.Errorf("after a restart of resolved pc is %q\n%s", got, try("resolvectl", "status"))
	}
	hostWorks("after a restart of resolved")

	// killed: the device stays up here, which a TAP device would not
	c.Run("systemctl", "kill", "--signal=KILL", "node.service")
	hostWorks("after a kill")
	start("again", "node", "root")
	waitLog("again", "DNS: systemd-resolved asks 10.250.0.2")
	hostWorks("again")

	c.Run("systemctl", "stop", "again.service")
	waitLog("again", "COUNTERS:")
	hostWorks("afterwards")
	if got := try("resolvectl", "dns", "tapipop") + try("resolvectl", "domain", "tapipop"); got != before {
		t.Errorf("resolved knows %q afterwards, before %q", got, before)
	}
	if line := log("again"); !strings.Contains(line, "Refused:0") {
		t.Errorf("the node was asked about the world:\n%s", line)
	}

	// What an administrator has made of /etc/resolv.conf stays, and is said.
	for _, other := range []struct{ unit, command, says string }{
		{"uplink", "ln -sf /run/systemd/resolve/resolv.conf /etc/resolv.conf", "leads past systemd-resolved"},
		{"foreign", "ln -sf /run/resolv.conf /etc/resolv.conf; echo nameserver 127.0.0.9 >/run/resolv.conf", "names other servers"},
		{"absent", "systemctl mask --runtime --now systemd-resolved.service", "does not run here"},
	} {
		c.Run("sh", "-c", other.command)
		file := c.Run("cat", "/etc/resolv.conf")
		start(other.unit, "node", "root")
		waitLog(other.unit, other.says)
		hostWorks(other.unit)
		c.Run("systemctl", "stop", other.unit+".service")
		if got := c.Run("cat", "/etc/resolv.conf"); got != file {
			t.Errorf("%s: /etc/resolv.conf was %q and is %q", other.unit, file, got)
		}
	}
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := os.MkdirAll(to[:strings.LastIndex(to, "/")], 0o755); err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
