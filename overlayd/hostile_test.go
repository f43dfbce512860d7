package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"gridappliance/internal/netlab"
	"gridappliance/overlayd/control"
	"gridappliance/overlayd/session"
	"gridappliance/overlayd/wire"
)

// rss is a process's resident memory in MiB.
func rss(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	must(t, err)
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.Atoi(strings.Fields(rest)[0])
			must(t, err)
			return kib >> 10
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

// maxGrowth bounds what an attack may cost in memory, MiB.
const maxGrowth = 64

// TestHostileInput attacks a machine in the open while another one sends it a
// numbered stream. Nothing of the stream is lost, each attack shows in a
// counter, and memory stays.
func TestHostileInput(t *testing.T) {
	needLab(t)
	w := newWorld(t, ordinary)
	a, b := w.site(netlab.Home).machine(), w.open()
	eve, victim := w.net.Node("eve"), w.net.Node("victim")
	w.wan.Plug(eve, "203.0.113.200/24")
	w.wan.Plug(victim, "203.0.113.201/24")
	a.start()
	b.start()
	a.waitRunning()
	b.waitRunning()
	target := netip.AddrPortFrom(b.public, 4242)

	stream := w.net.Stream(a.Node, b.Node, netip.AddrPortFrom(b.Address, 5000), streamRate)
	defer stream.Stop(0)
	a.waitPath(b, control.PathDirect, 5*time.Second)
	time.Sleep(100 * time.Millisecond)
	before := rss(t, b.process.Pid())

	spoof := newSpoofer(t, eve)
	listen := tap(t, b.Node, "eth0", 5000)
	time.Sleep(500 * time.Millisecond)
	recorded := listen()
	random := rand.New(rand.NewPCG(1, 2))

	for _, c := range []struct {
		name     string
		attack   func(t *testing.T)
		counters []string // one of them grows
		least    uint64   // by so many
	}{
		{"flood of forged first messages", func(t *testing.T) {
			// As a stranger would write them: the right tag, any ephemeral key.
			s := newStranger(t, eve, "0.0.0.0:4300", w.floppy("honest"), lie{})
			hello := firstHello(t, s)
			for i := range 20_000 {
				for j := 28; j < 60; j++ {
					hello[j] = byte(random.Uint32())
				}
				binary.BigEndian.PutUint32(hello[4:], uint32(i))
				from := netip.AddrFrom4([4]byte{198, 51, byte(100 + i&3), byte(i >> 2)})
				spoof.send(netip.AddrPortFrom(from, uint16(1024+i&0xfff)), target, hello)
				if i%10 == 9 {
					time.Sleep(time.Millisecond)
				}
			}
		}, []string{"drop/session-busy", "drop/session-cookie"}, 5000},
		{"flood of datagrams that are nothing", func(t *testing.T) {
			for i := range 20_000 {
				junk := make([]byte, 1+random.IntN(1400))
				for j := range junk {
					junk[j] = byte(random.Uint32())
				}
				junk[0] = byte(0x80 + i%16)
				spoof.send(netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), 5000), target, junk)
				if i%10 == 9 {
					time.Sleep(time.Millisecond)
				}
			}
		}, []string{"drop/foreign"}, 5000},
		{"replay of what was heard", func(t *testing.T) {
			for range 3 {
				for i, h := range recorded {
					if i%16 == 0 {
						time.Sleep(time.Millisecond)
					}
					if h.to == target {
						spoof.send(h.from, h.to, h.data)
						spoof.send(netip.MustParseAddrPort("203.0.113.200:4242"), h.to, h.data)
					}
				}
			}
		}, []string{"drop/record", "drop/session-replay"}, 500},
		{"forged records under known indices", func(t *testing.T) {
			for _, h := range recorded {
				if h.to == target && h.data[0] == 0x84 {
					d := append([]byte(nil), h.data...)
					binary.BigEndian.PutUint32(d[8:], binary.BigEndian.Uint32(d[8:])+1<<20) // a counter of the future
					spoof.send(h.from, h.to, d)
				}
			}
		}, []string{"drop/record", "drop/session-forged"}, 100},
		{"oversize", func(t *testing.T) {
			for _, size := range []int{1201, 1472, 9000, 60_000} {
				for kind := byte(0x80); kind <= 0x85; kind++ {
					d := make([]byte, size)
					d[0], d[1] = kind, 1
					conn := dialUDP(t, eve, target)
					for range 20 {
						conn.Write(d)
						time.Sleep(time.Millisecond) // the line is to carry the stream as well
					}
					conn.Close()
				}
			}
		}, []string{"drop/session-oversize"}, 20},
		{"spoofed inner source, whole and in a superpacket", func(t *testing.T) {
			s := newStranger(t, eve, "0.0.0.0:4301", w.floppy("mallory"), lie{})
			if s.open(target, "archer") == nil {
				t.Fatalf("the stranger has no session: %s", s.end)
			}
			// As if from a, to the port the stream is counted at.
			packet := udpPacket(a.Address, b.Address, 5000, make([]byte, 172))
			for range 50 {
				s.say(target, 0, 1, packet)
			}
			for i := range uint8(8) {
				s.say(target, i, 8, packet)
			}
			s.run(200*time.Millisecond, func() bool { return false })
		}, []string{"drop/source"}, 50},
		{"expired certificate", func(t *testing.T) {
			s := newStranger(t, eve, "0.0.0.0:4302", w.floppy("late"), lie{made: 23*time.Hour + 30*time.Minute})
			if s.open(target, session.LinkPurpose) != nil {
				s.run(time.Second, func() bool { return s.end != "" })
			}
			if s.got > 0 {
				t.Error("a session with an expired certificate")
			}
		}, []string{"drop/session-expired"}, 1},
		{"certificate for another key", func(t *testing.T) {
			s := newStranger(t, eve, "0.0.0.0:4303", w.floppy("thief"), lie{static: true})
			s.open(target, session.LinkPurpose)
			s.run(time.Second, func() bool { return s.end != "" || s.got > 0 })
			if s.got > 0 {
				t.Error("a session with somebody else's certificate")
			}
		}, []string{"drop/session-static"}, 1},
		{"another grid", func(t *testing.T) {
			w.builder("grid", "new", w.dir+"/other", "--masters", "1", "--bootstrap", masterEndpoint)
			w.builder("floppy", "new", "--grid", w.dir+"/other", "--role", "worker", "--group", "physics", "--user", "bob", "-o", w.dir+"/other.img")
			s := newStranger(t, eve, "0.0.0.0:4304", w.dir+"/other.img", lie{})
			if s.open(target, session.LinkPurpose) != nil {
				t.Error("a session with another grid")
			}
		}, []string{"drop/session-grid"}, 1},
		{"candidates that name a victim", func(t *testing.T) {
			heard := tap(t, victim, "eth0", 1<<20)
			for i := range 4 {
				var c wire.Candidates
				for j := range wire.MaxCandidates {
					c.List = append(c.List, wire.Candidate{Kind: wire.ReflexiveCandidate, Endpoint: netip.MustParseAddrPort(fmt.Sprintf("203.0.113.201:%d", 1000+8*i+j))})
				}
				s := newStranger(t, eve, fmt.Sprintf("0.0.0.0:%d", 4310+i), w.floppy(fmt.Sprintf("accuser-%d", i)), lie{candidates: c})
				if s.open(target, "archer") == nil {
					t.Fatalf("the stranger has no session: %s", s.end)
				}
				s.say(target, 0, 1, udpPacket(netip.MustParseAddr("10.250.9.9"), b.Address, 5000, nil)) // traffic, so that the path is kept
				s.run(200*time.Millisecond, func() bool { return false })
			}
			// Then they are silent. After 10 s each is asked whether it is there
			// still, and then looked for where it said that it is.
			time.Sleep(15 * time.Second)
			if n := len(heard()); n > 60 {
				t.Errorf("the victim was sent %d datagrams, at most 60 in 10 minutes may be", n)
			} else {
				t.Logf("the victim was sent %d datagrams", n)
			}
		}, []string{"link/budgeted"}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			start := b.counters()
			c.attack(t)
			var grown map[string]uint64
			for deadline := time.Now().Add(3 * time.Second); ; time.Sleep(50 * time.Millisecond) {
				grown = difference(start, b.counters())
				var sum uint64
				for _, name := range c.counters {
					sum += grown[name]
				}
				if sum >= c.least {
					break
				}
				if time.Now().After(deadline) {
					t.Errorf("%q grew by %d, want %d: %v", c.counters, sum, c.least, grown)
					break
				}
			}
			t.Logf("counters: %v; %d MiB", grown, rss(t, b.process.Pid()))
		})
	}

	f := stream.Stop(time.Second)
	if c := f.Count(); c.Lost != 0 || c.Duplicated != 0 {
		t.Errorf("the stream: %+v, want all once; lost: %s", c, lostOf(f))
	} else {
		t.Logf("the stream: %+v", c)
	}
	if p := a.path(b); p != control.PathDirect {
		t.Errorf("the path is %q", p)
	}
	if after := rss(t, b.process.Pid()); after > before+maxGrowth {
		t.Errorf("memory grew from %d to %d MiB", before, after)
	}
}

// firstHello is a HELLO as a stranger sends it.
func firstHello(t *testing.T, s *stranger) []byte {
	t.Helper()
	for _, a := range s.Handle(time.Now(), session.Open{Purpose: session.LinkPurpose, Via: session.Direct(netip.MustParseAddrPort("192.0.2.1:1"))}) {
		if send, ok := a.(session.Send); ok {
			return append([]byte(nil), send.Data...)
		}
	}
	t.Fatal("no HELLO")
	return nil
}

func dialUDP(t *testing.T, n *netlab.Node, to netip.AddrPort) (conn net.Conn) {
	t.Helper()
	n.Do(func() {
		var err error
		conn, err = net.Dial("udp4", to.String())
		must(t, err)
	})
	return conn
}

// udpPacket is an IPv4 packet with UDP; its UDP checksum is not used.
func udpPacket(from, to netip.Addr, port uint16, data []byte) []byte {
	b := make([]byte, 28, 28+len(data))
	b[0], b[8], b[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(b[2:], uint16(28+len(data)))
	copy(b[12:], from.AsSlice())
	copy(b[16:], to.AsSlice())
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(b[10:], ^uint16(sum>>16+sum))
	binary.BigEndian.PutUint16(b[20:], port)
	binary.BigEndian.PutUint16(b[22:], port)
	binary.BigEndian.PutUint16(b[24:], uint16(8+len(data)))
	return append(b, data...)
}

// difference is what has grown.
func difference(before, after map[string]uint64) map[string]uint64 {
	grown := map[string]uint64{}
	for name, n := range after {
		if n > before[name] {
			grown[name] = n - before[name]
		}
	}
	return grown
}
