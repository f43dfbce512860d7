package portmap

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"gridappliance/internal/need"
	"gridappliance/internal/netlab"
)

const port = 4242

// TestRealRouter lets a machine behind a translator with miniupnpd ask by each
// method: what comes to the mapped port from outside arrives, and when Run
// ends it does no more.
func TestRealRouter(t *testing.T) {
	lab := netlab.New(t)
	need.Tool(t, "miniupnpd", "nft")
	// Addresses that miniupnpd takes for public ones; the network is the test's.
	wan, lan := lab.Switch("wan"), lab.Switch("lan")
	router := lab.NAT("router", netlab.Home, netlab.Line{}, wan, "44.1.1.1/24", lan, "192.168.1.1/24")
	far, pc := lab.Node("far"), lab.Node("pc")
	wan.Plug(far, "44.1.1.9/24")
	lan.Plug(pc, "192.168.1.10/24").Default("192.168.1.1")

	t.Run("nobody answers", func(t *testing.T) {
		p := pc.Start("env", insideEnv+"=all", os.Args[0], "-test.run=^TestInside$", "-test.v")
		p.WaitFor("upnp: ", 30*time.Second)
		if strings.Contains(p.Output(), "told ") {
			t.Error(p.Output())
		}
	})

	dir := t.TempDir()
	config := filepath.Join(dir, "miniupnpd.conf")
	text := fmt.Sprintf(`ext_ifname=%s
listening_ip=%s
enable_natpmp=yes
enable_upnp=yes
secure_mode=yes
uuid=00000000-0000-4000-8000-000000000001
lease_file=%s
upnp_table_name=miniupnpd
upnp_nat_table_name=miniupnpd
upnp_forward_chain=miniupnpd
upnp_nat_chain=prerouting_miniupnpd
upnp_nat_postrouting_chain=postrouting_miniupnpd
allow 1024-65535 192.168.1.0/24 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
`, router.Outside.Name(), router.Inside.Name(), filepath.Join(dir, "leases"))
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	tables := filepath.Join(dir, "tables.nft")
	if err := os.WriteFile(tables, []byte(`table inet miniupnpd {
	chain miniupnpd { }
	chain forward { type filter hook forward priority 1; jump miniupnpd; }
	chain prerouting_miniupnpd { }
	chain prerouting { type nat hook prerouting priority -101; jump prerouting_miniupnpd; }
	chain postrouting_miniupnpd { }
	chain postrouting { type nat hook postrouting priority 99; jump postrouting_miniupnpd; }
}
`), 0o644); err != nil {
		t.Fatal(err)
	}
	router.Run("nft", "-f", tables)
	daemon := router.Start("miniupnpd", "-d", "-f", config, "-P", filepath.Join(dir, "pid"))
	daemon.WaitFor("Listening for NAT-PMP/PCP", 10*time.Second)

	var socket net.PacketConn
	pc.Do(func() {
		var err error
		if socket, err = net.ListenPacket("udp4", fmt.Sprintf(":%d", port)); err != nil {
			t.Fatal(err)
		}
	})
	defer socket.Close()
	arrives := func(at netip.AddrPort) bool {
		var outside net.PacketConn // a new one each time: connections live on without their mapping
		far.Do(func() {
			var err error
			if outside, err = net.ListenPacket("udp4", ":0"); err != nil {
				t.Fatal(err)
			}
		})
		defer outside.Close()
		b := make([]byte, 100)
		for range 5 {
			outside.WriteTo([]byte("hello"), net.UDPAddrFromAddrPort(at))
			socket.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
			if n, _, err := socket.ReadFrom(b); err == nil && string(b[:n]) == "hello" {
				return true
			}
		}
		return false
	}

	for _, name := range []string{"pcp", "nat-pmp", "upnp"} {
		t.Run(name, func(t *testing.T) {
			p := pc.Start("env", insideEnv+"="+name, os.Args[0], "-test.run=^TestInside$", "-test.v")
			p.WaitFor("told ", 20*time.Second)
			at := netip.MustParseAddrPort("44.1.1.1:4242")
			if out := p.Output(); !strings.Contains(out, fmt.Sprintf("told %v by %s\n", at, name)) {
				t.Fatal(out, daemon.Output())
			}
			if !arrives(at) {
				t.Error("what is sent to the mapped port does not arrive")
			}
			p.Signal(syscall.SIGTERM)
			if code := p.Wait(5 * time.Second); code != 0 {
				t.Error("exit status", code, p.Output())
			}
			if arrives(at) {
				t.Error("the mapping is not given back")
			}
		})
	}
}

const insideEnv = "GRID_PORTMAP_METHOD"

// TestInside is the program that TestRealRouter runs on a machine of the lab.
func TestInside(t *testing.T) {
	name := os.Getenv(insideEnv)
	if name == "" {
		t.Skip("run by TestRealRouter")
	}
	ctx, stop := signal.NotifyContext(t.Context(), syscall.SIGTERM)
	defer stop()
	m := New(port, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})), func(x Mapping) { fmt.Printf("told %v by %s\n", x.External, x.By) })
	if name != "all" {
		m.methods = slices.DeleteFunc(m.methods, func(x method) bool { return x.name != name })
	}
	m.Update(Gateway{netip.MustParseAddr("192.168.1.1"), netip.MustParseAddr("192.168.1.10")})
	m.Run(ctx)
}

// TestMapper gives it methods of the test's own, and what happens to routers.
func TestMapper(t *testing.T) {
	external := netip.MustParseAddrPort("44.1.1.1:4242")
	asked := map[string]int{}
	says := func(name string, e netip.AddrPort, err error) method {
		return method{name, func(_ context.Context, r request) (netip.AddrPort, time.Duration, error) {
			asked[fmt.Sprintf("%s %v", name, r.lifetime)]++
			return e, time.Hour, err
		}}
	}
	m := New(port, slog.New(slog.DiscardHandler), nil)
	m.methods = []method{says("none", netip.AddrPort{}, errNoAnswer), says("double", netip.MustParseAddrPort("100.64.0.7:4242"), nil), says("good", external, nil)}
	told := make(chan Mapping, 10)
	m.told = func(x Mapping) { told <- x }
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); m.Run(ctx) }()
	m.Update(Gateway{Via: netip.MustParseAddr("192.168.1.1")})
	if got := <-told; got.External != external || got.By != "good" {
		t.Errorf("%+v", got)
	}
	m.Update(Gateway{Via: netip.MustParseAddr("192.168.1.1")}) // nothing new
	m.Update(Gateway{Via: netip.MustParseAddr("192.168.9.1")})
	if got := <-told; got != (Mapping{}) {
		t.Errorf("another router, and still %+v", got)
	}
	if got := <-told; got.External != external {
		t.Errorf("%+v", got)
	}
	m.Update(Gateway{})
	if got := <-told; got != (Mapping{}) {
		t.Errorf("no router, and still %+v", got)
	}
	cancel()
	<-ended
	if asked["good 2h0m0s"] != 2 || asked["none 2h0m0s"] != 1 || asked["double 2h0m0s"] != 1 {
		t.Errorf("the method that worked is not asked first: %v", asked)
	}
}

func FuzzParsePCP(f *testing.F) {
	nonce := pcpNonce{1, 2, 3}
	answer := pcpRequest(netip.MustParseAddr("192.168.1.10"), nonce, port, port, time.Hour)
	answer[1] |= pcpAnswer
	f.Add(answer)
	f.Add([]byte{0, 0x80, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		e, life, ok, err := parsePCP(b, nonce, port)
		if !ok && err != nil || life < 0 {
			t.Errorf("%v %v %v %v", e, life, ok, err)
		}
		if ok && err == nil && (len(b) < pcpSize || b[3] != 0) {
			t.Errorf("taken: %x", b)
		}
	})
}
