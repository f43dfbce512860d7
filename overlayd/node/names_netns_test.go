package node

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/miekg/dns"

	"gridappliance/internal/netlab"
	"gridappliance/overlayd/names"
)

// namesInside makes the test's program the process in the namespace.
const namesInside = "NODE_TEST_NAMES_INSIDE"

// TestNamesFollowTheAddress moves a machine from one address to another and
// away from the network. The server binds real sockets, so the test runs its
// own program in a namespace that has both addresses.
func TestNamesFollowTheAddress(t *testing.T) {
	if os.Getenv(namesInside) != "" {
		followInside(t)
		return
	}
	node := netlab.New(t).Node("node")
	node.Run("ip", "link", "add", "tapipop", "type", "bridge")
	node.Run("ip", "link", "set", "tapipop", "up")
	for _, addr := range []string{"10.250.0.7/16", "10.250.0.8/16"} {
		node.Run("ip", "address", "add", addr, "dev", "tapipop")
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(namesInside, "1")
	p := node.Start(program, "-test.run=^TestNamesFollowTheAddress$")
	if code := p.Wait(time.Minute); code != 0 {
		t.Errorf("inside: exit %d\n%s", code, p.Output())
	}
}

func followInside(t *testing.T) {
	n := &Node{cfg: Config{Device: "tapipop"}, log: slog.New(slog.DiscardHandler),
		requests: make(chan func(time.Time)), ended: make(chan struct{})}
	n.domain = newDomain(n)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { // the loop
		for {
			select {
			case f := <-n.requests:
				f(time.Now())
			case <-ctx.Done():
				return
			}
		}
	}()
	served := make(chan struct{})
	go func() { defer close(served); n.serveNames(ctx) }()

	zone := func(addr string) names.Zone {
		return names.Zone{Own: names.Host{Address: netip.MustParseAddr(addr)}, Pool: netip.MustParsePrefix("10.250.0.0/16")}
	}
	answers := func(addr string) bool {
		c := dns.Client{Timeout: 200 * time.Millisecond}
		m, _, err := c.Exchange(new(dns.Msg).SetQuestion("C250001002.ipop.", dns.TypeA), addr+":53")
		return err == nil && len(m.Answer) == 1
	}
	for _, step := range []struct {
		zone    names.Zone
		answers map[string]bool
	}{
		{zone("10.250.0.7"), map[string]bool{"10.250.0.7": true, "10.250.0.8": false}},
		{zone("10.250.0.8"), map[string]bool{"10.250.0.7": false, "10.250.0.8": true}},
		{names.Zone{}, map[string]bool{"10.250.0.7": false, "10.250.0.8": false}},
		{zone("10.250.0.7"), map[string]bool{"10.250.0.7": true, "10.250.0.8": false}},
	} {
		n.domain.zones <- step.zone
		for addr, want := range step.answers {
			for deadline := time.Now().Add(10 * time.Second); answers(addr) != want; time.Sleep(20 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("with %v: %s answers: %v, want %v", step.zone.Own.Address, addr, !want, want)
				}
			}
		}
	}
	cancel()
	select {
	case <-served:
	case <-time.After(10 * time.Second):
		t.Fatal("serveNames does not end")
	}
	if answers("10.250.0.7") {
		t.Error("it answers after its end")
	}
}
