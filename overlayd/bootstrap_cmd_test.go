package main

import (
	"bufio"
	"bytes"
	"context"
	crand "crypto/rand"
	"io"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"gridappliance/overlayd/bootstrap"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/session"
	"gridappliance/overlayd/stream"
	"gridappliance/overlayd/transport"
)

// guest is a member with a socket or a TCP connection, and nothing above.
type guest struct {
	t      *testing.T
	conn   transport.Conn
	at     netip.AddrPort
	member *bootstrap.Member
	table  bootstrap.Table
	last   bootstrap.Enrolled
}

func newGuest(t *testing.T, conn transport.Conn, at netip.AddrPort, id byte) *guest {
	g := &guest{t: t, conn: conn, at: at, member: bootstrap.NewMember(bootstrap.MemberConfig{ID: nodeid.ID{id},
		Tags: []bootstrap.Tag{bootstrap.TagOf([32]byte{1})}, Random: crand.Reader, Rand: rand.New(rand.NewPCG(1, uint64(id)))})}
	g.do(bootstrap.Want{Contacts: 10})
	return g
}

func (g *guest) do(e bootstrap.Event) {
	g.t.Helper()
	for _, a := range g.member.Handle(time.Now(), e) {
		switch a := a.(type) {
		case bootstrap.Send:
			if err := g.conn.WriteTo(a.Data, a.To); err != nil {
				g.t.Fatal(err)
			}
		case bootstrap.Enrolled:
			g.last = a
			g.table.Number(a.At)
		}
	}
}

// enrol asks until there is an answer.
func (g *guest) enrol() {
	g.t.Helper()
	g.last = bootstrap.Enrolled{}
	g.do(bootstrap.Add{At: g.at})
	for g.last.Place.Handle == 0 {
		g.do(bootstrap.Datagram{From: g.at, Data: []byte(g.read())})
	}
}

func (g *guest) read() string {
	g.t.Helper()
	b := make([]byte, transport.MaxDatagram)
	n, _, err := g.conn.ReadFrom(b)
	if err != nil {
		g.t.Fatal(err)
	}
	return string(b[:n])
}

// TestBootstrapCommand runs it with real sockets: two members meet, one of
// them over TCP, and what they say to each other arrives.
func TestBootstrapCommand(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	logs, w := io.Pipe()
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, []string{"bootstrap", "--listen", "127.0.0.1:0", "--listen-tcp", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--limit", "8Mbit/s"}, nil, io.Discard, w)
		w.Close()
	}()
	find := regexp.MustCompile(`msg="?(bootstrap started|listening on TCP|metrics)"? endpoint=(\S+)`)
	found := map[string]string{}
	lines := bufio.NewScanner(logs)
	for len(found) < 3 && lines.Scan() {
		if m := find.FindStringSubmatch(lines.Text()); m != nil {
			found[m[1]] = m[2]
		}
	}
	if len(found) < 3 {
		t.Fatal("not started: ", found, <-done)
	}
	go io.Copy(io.Discard, logs)

	udp, err := transport.UDP{}.Listen(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	tcp := stream.New()
	defer tcp.Close()
	end, err := tcp.Dial(ctx, netip.MustParseAddrPort(found["listening on TCP"]), "")
	if err != nil {
		t.Fatal(err)
	}
	x := newGuest(t, udp, netip.MustParseAddrPort(found["bootstrap started"]), 1)
	y := newGuest(t, tcp, end, 2)
	x.enrol()
	y.enrol()
	if x.last.Seen != udp.LocalAddr() || y.last.Seen.IsValid() || len(y.last.Contacts) != 1 || x.last.Place.Bootstrap != y.last.Place.Bootstrap {
		t.Fatalf("%+v %+v", x.last, y.last)
	}

	record := func(n int, fill byte) []byte { return append([]byte{0x84}, bytes.Repeat([]byte{fill}, n-1)...) }
	toX := y.table.Endpoint(y.at, y.last.Contacts[0].Handle)
	if session.VirtualKind(toX.Addr()) != session.ByStream {
		t.Error("a member beyond TCP is at", toX)
	}
	at, wrapped, _ := y.table.Wrap(nil, record(100, 1), toX)
	if err := y.conn.WriteTo(wrapped, at); err != nil {
		t.Fatal(err)
	}
	fromY, data, ok := x.table.Unwrap([]byte(x.read()), x.at)
	if !ok || !bytes.Equal(data, record(100, 1)) {
		t.Fatalf("%x", data)
	}
	// Back go a run of equal datagrams and a shorter one, in one call.
	var all []byte
	for i := range 20 {
		_, all, _ = x.table.Wrap(all, record(1000-i/19*500, byte(i)), fromY)
	}
	if refused, err := transport.Batched(udp).Transmit([]transport.Message{{Data: all, Segment: 1008, Peer: x.at}}); refused > 0 || err != nil {
		t.Fatal(refused, err)
	}
	for i := range 20 {
		if _, data, ok := y.table.Unwrap([]byte(y.read()), y.at); !ok || !bytes.Equal(data, record(1000-i/19*500, byte(i))) {
			t.Errorf("datagram %d: %d bytes", i, len(data))
		}
	}

	resp, err := http.Get(found["metrics"])
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	for _, want := range []string{"overlayd_bootstrap_members 2\n", "overlayd_bootstrap_carried_total 21\n", `overlayd_bootstrap_dropped_total{reason="budget"} 0` + "\n"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in %s", want, text)
		}
	}
	cancel()
	if code := <-done; code != 0 {
		t.Error("exit status", code)
	}
}

// TestRunsStayRuns: datagrams that came in one piece for one member leave in
// one piece, and a forged source gets nowhere.
func TestRunsStayRuns(t *testing.T) {
	u := &transport.Memory{}
	conn, err := u.Listen(netip.MustParseAddrPort("192.0.2.1:4242"))
	if err != nil {
		t.Fatal(err)
	}
	r := rendezvous{udp: transport.Batched(conn), tcp: stream.New(),
		server: bootstrap.NewServer(bootstrap.ServerConfig{Random: crand.Reader, Rand: rand.New(rand.NewPCG(1, 1))}, time.Now())}
	go r.serveUDP()
	defer conn.Close()
	var guests []*guest
	for i := range byte(3) {
		c, err := u.Listen(netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 10 + i}), 4242))
		if err != nil {
			t.Fatal(err)
		}
		guests = append(guests, newGuest(t, c, conn.LocalAddr(), i+1))
		guests[i].enrol()
	}
	var all []byte
	for _, to := range []int{1, 1, 1, 2, 1} {
		_, all, _ = guests[0].table.Wrap(all, append([]byte{0x84}, make([]byte, 99)...), guests[0].table.Endpoint(guests[0].at, bootstrap.Handle(guests[to].last.Place.Handle)))
	}
	out := r.handle(nil, &transport.Message{Data: all, Segment: 108, Peer: guests[0].conn.LocalAddr()})
	var got []int
	for _, m := range out {
		got = append(got, len(m.Data)/108)
	}
	if len(got) != 3 || got[0] != 3 || got[1] != 1 || got[2] != 1 || out[1].Peer != guests[2].conn.LocalAddr() {
		t.Errorf("%v: %v", got, out)
	}
	if out := r.handle(nil, &transport.Message{Data: all, Peer: session.VirtualEndpoint(session.ByStream, 0, 1)}); len(out) > 0 || r.server.Counters().Drops[bootstrap.DropForged] != 1 {
		t.Error("a forged source is answered")
	}
}

func TestParseRate(t *testing.T) {
	for text, want := range map[string]int{"100Mbit/s": 12_500_000, "1.5Gbit/s": 187_500_000, "800kbit/s": 100_000, "": 0, "100": 0, "Mbit/s": 0, "1kbit/s": 0, "1MB": 0, "-5Mbit/s": 0, "1e3Mbit/s": 0} {
		if got, err := parseRate(text); got != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
}

// TestUnitStartsTheCommand: the flags in the unit are the command's, and the
// guide shows the unit as it is.
func TestUnitStartsTheCommand(t *testing.T) {
	unit, err := os.ReadFile("../docs/overlayd-bootstrap.service")
	if err != nil {
		t.Fatal(err)
	}
	guide, err := os.ReadFile("../docs/bootstrap.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(guide, unit) {
		t.Error("docs/bootstrap.md shows another unit")
	}
	_, line, ok := strings.Cut(string(unit), "ExecStart=/usr/bin/overlayd bootstrap ")
	if !ok {
		t.Fatal("no ExecStart")
	}
	line, _, _ = strings.Cut(line, "\n")
	if err := newBootstrapCommand().ParseFlags(strings.Fields(line)); err != nil {
		t.Error(err)
	}
}
