package main

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gridappliance/internal/diag"
	"gridappliance/internal/need"
	"gridappliance/overlayd/control"
)

// resolves asks dig on m about names until each is answered as wanted: records
// that were just put spread for a moment.
func (m *machine) resolves(server string, questions map[string]string) {
	m.t.Helper()
	for question, want := range questions {
		var got string
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
			if got, _ = m.Try(append([]string{"dig", "@" + server, "+short", "+tries=1", "+time=3"}, strings.Fields(question)...)...); got == want {
				break
			}
		}
		if got != want {
			m.t.Errorf("%s: dig %s: %q, want %q", m.name, question, got, want)
		}
	}
}

// checkNames has both machines of a pair answer for all names of both.
func (p *pair) checkNames(master, worker control.Status) {
	t := p.t
	t.Helper()
	need.Tool(t, "dig", "getent")
	if !strings.HasPrefix(worker.DNS.State, "systemd-resolved") || worker.DNS.Server != worker.Address.Addr() {
		t.Errorf("names of the worker: %+v", worker.DNS)
	}
	code, _, stderr := command("put", "service/web", "tcp 80 1", "--control", p.worker.dir+"/sock")
	if code != diag.ExitDone {
		t.Errorf("put: exit %d: %s", code, stderr)
	}
	name := strings.ToLower(worker.Name)
	four, six := worker.Address.Addr().String(), worker.Address6.Addr().String()
	questions := map[string]string{
		"C250000002.ipop A":    "10.250.0.2\n",
		"master-1.ipop A":      "10.250.0.2\n",
		"c250000002.ipop AAAA": master.Address6.Addr().String() + "\n",
		"Alices-PC.ipop A":     four + "\n",
		"alices-pc.ipop AAAA":  six + "\n",
		name + " A":            four + "\n",
		name + " AAAA":         six + "\n",
		"-x " + four:           worker.Name + ".\n",
		"-x " + six:            worker.Name + ".\n",
		"-x 10.250.0.2":        "C250000002.ipop.\n",
		"_web._tcp.ipop SRV":   "1 0 80 " + worker.Name + ".\n",
		"nobody.ipop A":        "",
		"example.com A":        "",
	}
	p.worker.resolves(four, questions)
	p.master.resolves("10.250.0.2", questions)
	p.worker.resolves("10.250.0.2", map[string]string{"Alices-PC.ipop A": four + "\n"}) // another member's server

	// The C library, with nothing but a server and a search domain.
	files := map[string]string{}
	for target, text := range map[string]string{
		"/etc/resolv.conf":   "nameserver " + four + "\nsearch ipop\n",
		"/etc/nsswitch.conf": "hosts: dns\npasswd: files\n",
	} {
		files[target] = filepath.Join(p.worker.dir, filepath.Base(target))
		if err := os.WriteFile(files[target], []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for args, want := range map[string]string{
		"getent ahostsv4 master-1":            "10.250.0.2",
		"getent ahosts alices-pc":             four,
		"getent hosts 10.250.0.2":             "C250000002.ipop",
		"ping -4 -c 2 -i 0.2 -W 3 MASTER-1":   "2 packets transmitted, 2 received",
		"ping -6 -c 2 -i 0.2 -W 3 c250000002": "2 packets transmitted, 2 received",
	} {
		p := p.worker.StartMounted(files, strings.Fields(args)...)
		if code := p.Wait(patience); code != 0 || !strings.Contains(p.Output(), want) {
			t.Errorf("%s: exit %d, want %q in:\n%s", args, code, want, p.Output())
		}
	}
}

// TestNamesGoWithTheAddress has a master's port 53 taken by another server, and
// free again; the node carries on without names.
func TestNamesGoWithTheAddress(t *testing.T) {
	need.Tool(t, "dig")
	m := newMaster(t)
	var other net.PacketConn
	m.node.Do(func() { other = listenUDP(t, netip.MustParseAddrPort("0.0.0.0:53")) })
	m.start()
	waitDNS := func(text string) {
		t.Helper()
		for deadline := time.Now().Add(patience); !strings.Contains(m.status().DNS.State, text); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("names: %q, want %q", m.status().DNS.State, text)
			}
		}
	}
	waitDNS("another DNS server has port 53")
	m.waitRunning()
	other.Close()
	waitDNS("systemd-resolved")
	if got := m.node.Run("dig", "@10.250.0.2", "+short", "master-1.ipop"); got != "10.250.0.2\n" {
		t.Errorf("dig says %q", got)
	}
}

func listenUDP(t *testing.T, addr netip.AddrPort) net.PacketConn {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}
