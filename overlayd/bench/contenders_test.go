package bench

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gridappliance/internal/netlab"
	"gridappliance/internal/sysrun"
)

// contender is an overlay that is measured.
type contender struct {
	name string
	// tools are what is needed of Debian's.
	tools []string
	// start starts it on both machines and returns b's address on it, and the
	// daemons.
	start func(m *machines) (address string, daemons []*netlab.Process)
	// relays says that it can do without a direct way.
	relays bool
	// alone says that the baseline is meant: no daemon.
	alone bool
}

const (
	insideA = "10.77.0.1"
	insideB = "10.77.0.2"
	insideR = "10.77.0.9"
)

var contenders = []contender{
	{name: "no overlay", alone: true, start: func(*machines) (string, []*netlab.Process) { return underB, nil }},
	{name: "overlayd", relays: true, start: startOverlayd},
	{name: "wireguard-go", start: wireguard("golang.zx2c4.com/wireguard")},
	{name: "tailscale's wireguard-go", start: wireguard("github.com/tailscale/wireguard-go")},
	{name: "nebula 1.11.1, buffers 10 MiB", relays: true, start: nebula("github.com/slackhq/nebula/cmd/nebula", "github.com/slackhq/nebula/cmd/nebula-cert", 10<<20)},
	{name: "nebula (Debian)", relays: true, tools: []string{"nebula", "nebula-cert"}, start: nebula("nebula", "nebula-cert", 0)},
	{name: "tinc (Debian)", tools: []string{"tincd"}, start: startTinc},
}

// built builds a command once for all rounds of a test run: ours, or a peer's
// from the module in the folder peers.
var built = struct {
	sync.Mutex
	paths map[string]string
	dir   string
}{paths: map[string]string{}}

func program(t testing.TB, pkg string) string {
	t.Helper()
	built.Lock()
	defer built.Unlock()
	if p := built.paths[pkg]; p != "" {
		return p
	}
	folder := "."
	if !strings.HasPrefix(pkg, "gridappliance/") {
		folder = "peers"
		if !strings.Contains(pkg, ".") {
			return pkg // Debian's
		}
	}
	path := filepath.Join(built.dir, strings.ReplaceAll(pkg, "/", "_"))
	if _, err := sysrun.Run(context.Background(), sysrun.Command{Name: "go", Args: []string{"build", "-o", path, pkg}, Dir: folder}); err != nil {
		t.Fatal(err)
	}
	built.paths[pkg] = path
	return path
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "overlayd-bench-")
	if err != nil {
		panic(err)
	}
	built.dir = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// startOverlayd starts two masters of one grid, and a third on r.
func startOverlayd(m *machines) (string, []*netlab.Process) {
	overlayd, builder := program(m.t, "gridappliance/overlayd"), program(m.t, "gridappliance/builder")
	first := []string{underA}
	nodes := []*netlab.Node{m.a, m.b}
	if m.r != nil {
		nodes = []*netlab.Node{m.r, m.a, m.b}
		first = []string{relayA, relayB}
	}
	args := []string{"grid", "new", m.dir + "/grid", "--masters", fmt.Sprint(len(nodes))}
	for _, a := range first {
		args = append(args, "--bootstrap", a+":4242")
	}
	if _, err := sysrun.Output(m.t.Context(), builder, args...); err != nil {
		m.t.Fatal(err)
	}
	var daemons []*netlab.Process
	for i, n := range nodes {
		dir := fmt.Sprintf("%s/%d", m.dir, i+1)
		write(m.t, dir+"/machine-id", fmt.Sprintf("%032x\n", i+1))
		daemons = append(daemons, n.Start(overlayd, "run", "--floppy", fmt.Sprintf("%s/grid/master-%d.img", m.dir, i+1),
			"--machine-id", dir+"/machine-id", "--state", dir+"/state", "--control", dir+"/sock"))
	}
	for _, d := range daemons {
		d.WaitFor("address taken", time.Minute)
	}
	return fmt.Sprintf("10.250.0.%d", len(nodes)+1), daemons
}

// wireguard starts a wireguard-go; it is configured by its own protocol
// (wireguard.com/xplatform), so that wireguard-tools are not needed.
func wireguard(pkg string) func(m *machines) (string, []*netlab.Process) {
	return func(m *machines) (string, []*netlab.Process) {
		var keys [2]*ecdh.PrivateKey
		for i := range keys {
			var err error
			if keys[i], err = ecdh.X25519().GenerateKey(rand.Reader); err != nil {
				m.t.Fatal(err)
			}
		}
		var daemons []*netlab.Process
		under, inside := []string{underA, underB}, []string{insideA, insideB}
		for i, n := range []*netlab.Node{m.a, m.b} {
			device := fmt.Sprintf("benchwg%d", i)
			daemons = append(daemons, n.Start(program(m.t, pkg), "-f", device))
			socket := "/var/run/wireguard/" + device + ".sock"
			var conn net.Conn
			for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
				var err error
				if conn, err = net.Dial("unix", socket); err == nil {
					break
				}
				if time.Now().After(deadline) {
					m.t.Fatal(err, daemons[i].Output())
				}
			}
			fmt.Fprintf(conn, "set=1\nprivate_key=%x\nlisten_port=51820\npublic_key=%x\nendpoint=%s:51820\nallowed_ip=%s/32\n\n",
				keys[i].Bytes(), keys[1-i].PublicKey().Bytes(), under[1-i], inside[1-i])
			answer := make([]byte, 100)
			k, err := conn.Read(answer)
			if conn.Close(); err != nil || !bytes.HasPrefix(answer[:k], []byte("errno=0")) {
				m.t.Fatalf("%s: %q, %v", device, answer[:k], err)
			}
			n.Run("ip", "address", "add", inside[i]+"/24", "dev", device)
			n.Run("ip", "link", "set", device, "mtu", "1420", "up")
		}
		return insideB, daemons
	}
}

// nebula starts one with a certificate authority of its own. Relayed, r is
// lighthouse and relay.
func nebula(daemon, cert string, buffers int) func(m *machines) (string, []*netlab.Process) {
	return func(m *machines) (string, []*netlab.Process) {
		certify := func(args ...string) {
			if _, err := sysrun.Output(m.t.Context(), program(m.t, cert), args...); err != nil {
				m.t.Fatal(err)
			}
		}
		authority := []string{"-out-crt", m.dir + "/ca.crt", "-out-key", m.dir + "/ca.key"}
		certify(append([]string{"ca", "-name", "bench"}, authority...)...)
		type host struct {
			n              *netlab.Node
			inside, static string
		}
		hosts := []host{
			{m.a, insideA, fmt.Sprintf("%q: [%q]", insideB, underB+":4242")},
			{m.b, insideB, fmt.Sprintf("%q: [%q]", insideA, underA+":4242")},
		}
		if m.r != nil {
			hosts[0].static = fmt.Sprintf("%q: [%q]", insideR, relayA+":4242")
			hosts[1].static = fmt.Sprintf("%q: [%q]", insideR, relayB+":4242")
			hosts = append([]host{{m.r, insideR, ""}}, hosts...)
		}
		var daemons []*netlab.Process
		for _, h := range hosts {
			file := m.dir + "/" + h.inside
			certify("sign", "-name", h.inside, "-ip", h.inside+"/24", "-ca-crt", m.dir+"/ca.crt", "-ca-key", m.dir+"/ca.key",
				"-out-crt", file+".crt", "-out-key", file+".key")
			text := fmt.Sprintf(`
pki: {ca: %[1]s/ca.crt, cert: %[2]s.crt, key: %[2]s.key}
static_host_map: {%[3]s}
listen: {host: 0.0.0.0, port: 4242%[4]s}
tun: {dev: nebula1, mtu: 1300}
firewall:
  outbound: [{port: any, proto: any, host: any}]
  inbound: [{port: any, proto: any, host: any}]
`, m.dir, file, h.static, bufferLines(buffers))
			switch {
			case m.r == nil:
				text += "lighthouse: {am_lighthouse: false}\n"
			case h.n == m.r:
				text += "lighthouse: {am_lighthouse: true}\nrelay: {am_relay: true}\n"
			default:
				text += fmt.Sprintf("lighthouse: {am_lighthouse: false, hosts: [%[1]q]}\nrelay: {relays: [%[1]q], use_relays: true}\n", insideR)
			}
			write(m.t, file+".yml", text)
			daemons = append(daemons, h.n.Start(program(m.t, daemon), "-config", file+".yml"))
		}
		return insideB, daemons
	}
}

func bufferLines(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(", read_buffer: %d, write_buffer: %d", n, n)
}

// startTinc starts tinc 1.0 in its default mode, router, with its default
// cipher.
func startTinc(m *machines) (string, []*netlab.Process) {
	under, inside := []string{underA, underB}, []string{insideA, insideB}
	var folders, hosts [2]string
	for i := range folders {
		folders[i] = fmt.Sprintf("%s/tinc%d", m.dir, i)
		config := fmt.Sprintf("Name = n%d\nInterface = bench\nAddressFamily = ipv4\n", i)
		if i == 1 {
			config += "ConnectTo = n0\n"
		}
		write(m.t, folders[i]+"/tinc.conf", config)
		write(m.t, fmt.Sprintf("%s/hosts/n%d", folders[i], i), fmt.Sprintf("Address = %s\nSubnet = %s/32\n", under[i], inside[i]))
		write(m.t, folders[i]+"/tinc-up", fmt.Sprintf("#!/bin/sh\nip address add %s/24 dev $INTERFACE\nip link set $INTERFACE up\n", inside[i]))
		if err := os.Chmod(folders[i]+"/tinc-up", 0o755); err != nil {
			m.t.Fatal(err)
		}
		generate := sysrun.Command{Name: "tincd", Args: []string{"-c", folders[i], "-K", "2048"}, Stdin: strings.NewReader("\n\n")}
		if _, err := sysrun.Run(m.t.Context(), generate); err != nil {
			m.t.Fatal(err)
		}
		hosts[i] = read(m.t, fmt.Sprintf("%s/hosts/n%d", folders[i], i))
	}
	var daemons []*netlab.Process
	for i, n := range []*netlab.Node{m.a, m.b} {
		write(m.t, fmt.Sprintf("%s/hosts/n%d", folders[i], 1-i), hosts[1-i])
		daemons = append(daemons, n.Start("tincd", "-c", folders[i], "-D", "--pidfile", folders[i]+"/pid"))
	}
	return insideB, daemons
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
