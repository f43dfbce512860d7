package netlab

import (
	"encoding/binary"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Line is a cable that takes time and loses frames, the same in both
// directions. A frame never overtakes another. ARP takes no time and is not
// lost, as on a long line with a router at its end, which is what this is for.
//
//	eth0 (TAP of one node) ── read ─► queue, each frame with the time it is due ─► write ── (TAP of the other) eth0
//
// It is two TAP devices and four goroutines of the test, and not the kernel's
// netem, because not every kernel has netem: docs/decisions/0082. It carries
// some 50,000 frames a second; what must be faster goes over a Cable.
type Line struct {
	Delay time.Duration // one way
	Loss  float64       // share of frames, 0 to 1
}

const (
	lineQueue = 4096 // frames on their way; more are dropped, as a router does
	maxFrame  = 1514 // bytes: TAPs without offloads hand out no larger ones
	lineSeed  = 4787 // of what is lost
	tunDevice = "/dev/net/tun"
)

// Line joins two nodes as Cable does.
func (l *Lab) Line(line Line, a *Node, addressA string, b *Node, addressB string) (Port, Port) {
	l.t.Helper()
	pa, pb := Port{a, a.nextName()}, Port{b, b.nextName()}
	fa, fb := pa.open(), pb.open()
	var carriers sync.WaitGroup
	for i, way := range [][2]*os.File{{fa, fb}, {fb, fa}} {
		queue := make(chan dueFrame, lineQueue)
		random := rand.New(rand.NewPCG(lineSeed, uint64(i)))
		carriers.Go(func() { line.take(way[0], way[1], queue, random) })
		carriers.Go(func() { deliver(queue, way[1]) })
	}
	l.t.Cleanup(func() {
		fa.Close()
		fb.Close()
		carriers.Wait()
	})
	pa.up(addressA)
	pb.up(addressB)
	pa.widen()
	pb.widen()
	return pa, pb
}

// widen lets a whole burst wait for the goroutine that reads it.
func (p Port) widen() {
	p.node.t.Helper()
	p.node.Do(func() {
		link, err := netlink.LinkByName(p.name)
		check(p.node.t, err)
		check(p.node.t, netlink.LinkSetTxQLen(link, lineQueue))
	})
}

// open makes the port's TAP, which lasts as long as its file.
func (p Port) open() (file *os.File) {
	p.node.t.Helper()
	p.node.Do(func() {
		fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		check(p.node.t, err)
		request, err := unix.NewIfreq(p.name)
		check(p.node.t, err)
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		check(p.node.t, unix.IoctlIfreq(fd, unix.TUNSETIFF, request))
		file = os.NewFile(uintptr(fd), tunDevice)
	})
	return file
}

type dueFrame struct {
	data []byte
	due  time.Time
}

// take reads frames until the file is closed.
func (line Line) take(from, to *os.File, queue chan<- dueFrame, random *rand.Rand) {
	defer close(queue)
	buffer := make([]byte, maxFrame)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		if n >= 14 && binary.BigEndian.Uint16(buffer[12:]) == unix.ETH_P_ARP {
			to.Write(buffer[:n])
			continue
		}
		if random.Float64() < line.Loss {
			continue
		}
		select {
		case queue <- dueFrame{append([]byte(nil), buffer[:n]...), time.Now().Add(line.Delay)}:
		default:
		}
	}
}

// deliver writes each frame when it is due.
func deliver(queue <-chan dueFrame, to *os.File) {
	for f := range queue {
		time.Sleep(time.Until(f.due))
		to.Write(f.data) // an interface that is down takes none
	}
}
