package session

import (
	"crypto/hmac"
	"crypto/sha256"
	"io"
	"net/netip"
	"time"
)

// cookies makes and checks cookies without keeping anything per sender: a
// cookie is the first 16 bytes of HMAC-SHA256 over where the HELLO came from
// and its ephemeral key. The HMAC's key is a secret of 120 s together with the
// descriptor's hash, so that cookies end when the grid's descriptor changes.
type cookies struct {
	secrets [2][32]byte // now and before
	since   time.Time
	grid    [32]byte // hash of the descriptor
}

// rotate renews the secret when it is time.
func (c *cookies) rotate(now time.Time, random io.Reader) error {
	if !c.since.IsZero() && now.Sub(c.since) < cookieLife {
		return nil
	}
	c.secrets[1] = c.secrets[0]
	if c.since.IsZero() {
		if _, err := io.ReadFull(random, c.secrets[1][:]); err != nil {
			return err
		}
	}
	c.since = now
	_, err := io.ReadFull(random, c.secrets[0][:])
	return err
}

func (c *cookies) make(age int, from Via, e []byte) (cookie [cookieSize]byte) {
	h := hmac.New(sha256.New, append(c.secrets[age][:], c.grid[:]...))
	h.Write(from.bytes())
	h.Write(e)
	copy(cookie[:], h.Sum(nil))
	return cookie
}

func (c *cookies) valid(cookie [cookieSize]byte, from Via, e []byte) bool {
	for age := range c.secrets {
		if want := c.make(age, from, e); hmac.Equal(want[:], cookie[:]) {
			return true
		}
	}
	return false
}

// bytes tells paths apart.
func (v Via) bytes() []byte {
	a := v.Endpoint.Addr().As16()
	b := append(a[:], byte(v.Endpoint.Port()>>8), byte(v.Endpoint.Port()), byte(v.Channel>>8), byte(v.Channel))
	return append(append(b, v.Node[:]...), v.Over[:]...)
}

// source is what half-open handshakes are counted by: an IPv4 address, the /64
// of an IPv6 address, a virtual endpoint, or the path for those without an
// endpoint.
func (v Via) source() Via {
	if !v.IsDirect() {
		return v
	}
	a := v.Endpoint.Addr().Unmap()
	if a.Is6() && VirtualKind(a) == NotVirtual {
		p, _ := a.WithZone("").Prefix(64)
		a = p.Addr()
	}
	return Via{Endpoint: netip.AddrPortFrom(a, 0)}
}
