package main

import (
	crand "crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/flynn/noise"
	"golang.org/x/sys/unix"

	"gridappliance/credential"
	"gridappliance/floppy"
	"gridappliance/internal/netlab"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/session"
	"gridappliance/overlayd/wire"
)

// stranger speaks the sessions' protocol from a node of the lab, with a
// floppy's credential, and says what it likes.
type stranger struct {
	*session.Machine
	t    *testing.T
	conn *net.UDPConn
	up   *session.Session
	end  session.Reason // of the session or the attempt
	got  int            // records
}

// lie is how a stranger differs from an honest node.
type lie struct {
	made       time.Duration // its certificate was made so long ago
	candidates wire.Candidates
	static     bool // its session key is another than its certificate's
}

func newStranger(t *testing.T, n *netlab.Node, listen string, image string, l lie) *stranger {
	t.Helper()
	now := time.Now()
	bytes, err := os.ReadFile(image)
	must(t, err)
	f, err := floppy.CheckImage(image, bytes, now)
	must(t, err)
	identity, err := f.Identity(now)
	must(t, err)
	key, err := credential.NewKey()
	must(t, err)
	suite := noise.NewCipherSuite(noise.DH25519, noise.CipherChaChaPoly, noise.HashBLAKE2s)
	static, err := suite.GenerateKeypair(crand.Reader)
	must(t, err)
	request := credential.NodeRequest{Key: &key.PublicKey, X25519: [32]byte(static.Public), Instance: "stranger"}
	if l.static {
		request.X25519[0] ^= 1
	}
	cert, err := identity.MakeNode(request, now.Add(-l.made))
	must(t, err)
	verifier, err := credential.NewVerifier(identity.Descriptor)
	must(t, err)
	var roots [][32]byte
	for _, der := range identity.Descriptor.Roots {
		c, err := x509.ParseCertificate(der)
		must(t, err)
		roots = append(roots, sha256.Sum256(c.RawSubjectPublicKeyInfo))
	}
	s := &stranger{t: t}
	s.Machine, err = session.New(session.Config{
		ID: nodeid.ID(cert.Node.ID), Static: static, Chain: cert.Chain, Roots: roots, Descriptor: identity.Descriptor.Hash(),
		Purposes: []string{session.LinkPurpose, cert.Node.Namespace}, Random: crand.Reader,
		Offer:  l.candidates.Append(wire.Versions{}.Append(nil)),
		Crypto: session.Real(verifier.VerifyNode),
	}, now)
	must(t, err)
	n.Do(func() {
		s.conn, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(listen)))
		must(t, err)
	})
	t.Cleanup(func() { s.conn.Close() })
	return s
}

// open opens a session with whoever is at an endpoint; nil: that failed.
func (s *stranger) open(to netip.AddrPort, purpose string) *session.Session {
	s.t.Helper()
	s.act(s.Handle(time.Now(), session.Open{Purpose: purpose, Via: session.Direct(to)}))
	s.run(5*time.Second, func() bool { return s.up != nil || s.end != "" })
	return s.up
}

// run takes datagrams until done.
func (s *stranger) run(patience time.Duration, done func() bool) {
	buffer := make([]byte, 2000)
	for end := time.Now().Add(patience); !done() && time.Now().Before(end); {
		wake := end
		if d := s.NextDeadline(); !d.IsZero() && d.Before(wake) {
			wake = d
		}
		s.conn.SetReadDeadline(wake)
		n, from, err := s.conn.ReadFromUDPAddrPort(buffer)
		switch {
		case err == nil:
			s.act(s.Handle(time.Now(), session.Datagram{From: session.Direct(from), Data: buffer[:n]}))
		case errors.Is(err, os.ErrDeadlineExceeded):
			s.act(s.Handle(time.Now(), session.Tick{}))
		default:
			return
		}
	}
}

func (s *stranger) act(actions []session.Action) {
	for _, a := range actions {
		switch a := a.(type) {
		case session.Send:
			s.conn.WriteToUDPAddrPort(a.Data, a.To.Endpoint)
		case session.Up:
			s.up = a.Session
		case session.Failed:
			s.end = a.Reason
		case session.Down:
			s.end = a.Reason
		case session.Record:
			s.got++
		}
	}
}

// say sends records to the session's peer.
func (s *stranger) say(to netip.AddrPort, index, total uint8, plain []byte) {
	s.t.Helper()
	b := make([]byte, session.HeaderSize, session.HeaderSize+len(plain)+session.TagSize)
	b = append(b, plain...)[:session.HeaderSize+len(plain)+session.TagSize]
	must(s.t, s.up.Keys().Sealer(0).Seal(b, index, total))
	s.conn.WriteToUDPAddrPort(b, to)
}

// spoofer sends UDP from any address.
type spoofer struct {
	t  *testing.T
	fd int
}

func newSpoofer(t *testing.T, n *netlab.Node) spoofer {
	t.Helper()
	s := spoofer{t: t}
	n.Do(func() {
		var err error
		s.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		must(t, err)
	})
	t.Cleanup(func() { unix.Close(s.fd) })
	return s
}

// send sends one datagram; the kernel fills in the IP checksum, and the UDP
// checksum is not used.
func (s spoofer) send(from, to netip.AddrPort, data []byte) {
	const head = 28
	b := make([]byte, head, head+len(data))
	b[0], b[8], b[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(b[2:], uint16(head+len(data)))
	copy(b[12:], from.Addr().AsSlice())
	copy(b[16:], to.Addr().AsSlice())
	binary.BigEndian.PutUint16(b[20:], from.Port())
	binary.BigEndian.PutUint16(b[22:], to.Port())
	binary.BigEndian.PutUint16(b[24:], uint16(8+len(data)))
	unix.Sendto(s.fd, append(b, data...), 0, &unix.SockaddrInet4{Addr: to.Addr().As4()})
}

// heard is a UDP datagram on the underlay.
type heard struct {
	from, to netip.AddrPort
	data     []byte
}

// tap hears all UDP datagrams that an interface of n carries, until stop.
func tap(t *testing.T, n *netlab.Node, device string, most int) (stop func() []heard) {
	t.Helper()
	var fd int
	n.Do(func() {
		var err error
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		must(t, err)
		link, err := net.InterfaceByName(device)
		must(t, err)
		must(t, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: 0x0008, Ifindex: link.Index})) // ETH_P_IP, big-endian
		must(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}))
	})
	var all []heard
	var listening sync.WaitGroup
	ended := make(chan struct{})
	listening.Go(func() {
		defer unix.Close(fd)
		b := make([]byte, 1<<16)
		for {
			select {
			case <-ended:
				return
			default:
			}
			n, _, err := unix.Recvfrom(fd, b, 0)
			if err != nil || n < 28 || b[0] != 0x45 || b[9] != unix.IPPROTO_UDP || len(all) == most {
				continue
			}
			from, to := netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
			all = append(all, heard{
				from: netip.AddrPortFrom(from, binary.BigEndian.Uint16(b[20:])), to: netip.AddrPortFrom(to, binary.BigEndian.Uint16(b[22:])),
				data: append([]byte(nil), b[28:n]...),
			})
		}
	})
	return func() []heard {
		close(ended)
		listening.Wait()
		return all
	}
}
