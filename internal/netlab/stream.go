package netlab

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Packet is what became of one of a stream's packets. Times are since the
// stream began.
type Packet struct {
	Sent   time.Duration // zero, but for the first: not sent yet
	Got    time.Duration // of the first copy, zero when none came
	Copies int
	Late   bool // it came after a later one
}

// Lost says that no copy came.
func (p Packet) Lost() bool { return p.Copies == 0 }

// Flight is packets of a stream, by their numbers.
type Flight []Packet

// Count is what a flight comes to.
type Count struct {
	Sent, Lost, Duplicated, Reordered int
	Gap                               time.Duration // longest without an arrival
}

// Count counts.
func (f Flight) Count() (c Count) {
	var got []time.Duration
	for _, p := range f {
		c.Sent++
		if p.Lost() {
			c.Lost++
			continue
		}
		c.Duplicated += p.Copies - 1
		if p.Late {
			c.Reordered++
		}
		got = append(got, p.Got)
	}
	slices.Sort(got)
	for i := 1; i < len(got); i++ {
		c.Gap = max(c.Gap, got[i]-got[i-1])
	}
	return c
}

// Stall is the longest that the sender was late. It is a measure of how long
// the machine that runs the lab had no time for it: what was measured meanwhile
// says nothing.
func (f Flight) Stall() (longest time.Duration) {
	for i := 1; i < len(f); i++ {
		longest = max(longest, f[i].Sent-f[i-1].Sent)
	}
	return longest
}

// Between returns the packets sent at from or later, and before to.
func (f Flight) Between(from, to time.Duration) Flight {
	i, _ := slices.BinarySearchFunc(f, from, func(p Packet, t time.Duration) int { return int(p.Sent - t) })
	j, _ := slices.BinarySearchFunc(f, to, func(p Packet, t time.Duration) int { return int(p.Sent - t) })
	return f[i:max(i, j)]
}

// Within returns when the first of run packets in a row was sent that all
// took at most limit.
func (f Flight) Within(limit time.Duration, run int) (at time.Duration, found bool) {
	n := 0
	for i, p := range f {
		if p.Lost() || p.Got-p.Sent > limit {
			n = 0
		} else if n++; n == run {
			return f[i-run+1].Sent, true
		}
	}
	return 0, false
}

// Stream is UDP packets with numbers on their way between two nodes.
type Stream struct {
	start    time.Time
	from, to *net.UDPConn
	stop     chan struct{}
	sender   sync.WaitGroup
	receiver sync.WaitGroup

	mu      sync.Mutex
	flight  Flight
	highest int
}

// streamSize is a packet's length, about a voice call's.
const streamSize = 200

// Stream sends rate packets a second from one node to an address of another
// until Stop.
//
// The sockets are in the nodes' namespaces, everything else is in the test,
// so that both ends have one clock. A sender that was held up catches up.
func (l *Lab) Stream(from, to *Node, address netip.AddrPort, rate int) *Stream {
	l.t.Helper()
	s := &Stream{stop: make(chan struct{}), highest: -1}
	open := func(n *Node, local netip.AddrPort) (c *net.UDPConn) {
		n.Do(func() {
			var err error
			c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(local))
			l.check(err)
			raw, err := c.SyscallConn()
			l.check(err)
			l.check(raw.Control(func(fd uintptr) { // a burst of all that waited for a path
				err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20)
			}))
			l.check(err)
		})
		l.t.Cleanup(func() { c.Close() })
		return c
	}
	s.to = open(to, address)
	s.from = open(from, netip.AddrPort{})
	s.start = time.Now()
	s.receiver.Go(s.receive)
	s.sender.Go(func() { s.send(s.to.LocalAddr().(*net.UDPAddr).AddrPort(), time.Second/time.Duration(rate)) })
	return s
}

// Now is the time since the stream began.
func (s *Stream) Now() time.Duration { return time.Since(s.start) }

func (s *Stream) send(to netip.AddrPort, interval time.Duration) {
	packet := make([]byte, streamSize)
	for i := 0; ; i++ {
		select {
		case <-s.stop:
			return
		case <-time.After(time.Until(s.start.Add(time.Duration(i) * interval))):
		}
		binary.BigEndian.PutUint64(packet, uint64(i))
		s.mu.Lock()
		s.flight = append(s.flight, Packet{Sent: s.Now()})
		s.mu.Unlock()
		s.from.WriteToUDPAddrPort(packet, to) // what the kernel refuses is lost
	}
}

func (s *Stream) receive() {
	packet := make([]byte, streamSize+1)
	for {
		n, err := s.to.Read(packet)
		if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		if n != streamSize {
			continue
		}
		s.mu.Lock()
		if i := binary.BigEndian.Uint64(packet); i < uint64(len(s.flight)) {
			p := &s.flight[i]
			if p.Copies++; p.Copies == 1 {
				p.Got = s.Now()
				p.Late = int(i) < s.highest
			}
			s.highest = max(s.highest, int(i))
		}
		s.mu.Unlock()
	}
}

// Flight is what has become of the packets so far. Those still on their way
// look lost.
func (s *Stream) Flight() Flight {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.flight)
}

// Stop ends the stream, waits for what is on its way, and returns it all.
func (s *Stream) Stop(settle time.Duration) Flight {
	select {
	case <-s.stop:
	default:
		close(s.stop)
	}
	s.sender.Wait()
	s.to.SetReadDeadline(time.Now().Add(settle))
	s.receiver.Wait()
	return s.Flight()
}
