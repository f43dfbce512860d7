// Package portmap asks the router on the way out to let one UDP port of this
// machine be reached from outside, and keeps it so.
//
//	gateway ──> PCP ──no answer──> NAT-PMP ──no answer──> UPnP IGD ──none──> 10 min
//	              │ mapped            │ mapped               │ mapped
//	              └───────────────────┴──────────────────────┴──> told; renewed at half
//
// Only the default gateway is asked, and a UPnP device only if it answers at
// the gateway's address: any machine on a LAN can call itself a router. An
// external address that is private itself (a second translator) is of no use to
// peers and not told. A mapping asks for the port it has inside, and for two
// hours; it is given back when Run ends.
//
// Concurrency: Run is the only goroutine that uses the network; Update may be
// called from others.
//
// Limits on purpose: one gateway, IPv4, no firewall pinholes for IPv6.
//
// Sources: RFC 6887 (PCP), RFC 6886 (NAT-PMP), UPnP Forum WANIPConnection:2.
package portmap

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/huin/goupnp"
	"github.com/huin/goupnp/dcps/internetgateway2"
	"github.com/huin/goupnp/httpu"
	"github.com/huin/goupnp/ssdp"
	natpmp "github.com/jackpal/go-nat-pmp"
)

// Implementation: tunable at will.
const (
	lifetime   = 2 * time.Hour
	least      = 2 * time.Minute // a router that gives less is renewed that often
	retry      = 10 * time.Minute
	afterLoss  = time.Minute // a renewal that failed is tried again
	firstWait  = 250 * time.Millisecond
	lastWait   = time.Second // 250, 500 and 1,000 ms
	upnpTime   = 8 * time.Second
	searchTime = 2 * time.Second
	giveBack   = 2 * time.Second
	upnpReason = "grid-appliance overlayd"
)

var errNoAnswer = errors.New("no answer")

// Gateway is the router to ask.
type Gateway struct {
	Via    netip.Addr
	Source netip.Addr // this machine's address towards it
}

// Mapping is a port that can be reached from outside.
type Mapping struct {
	External netip.AddrPort
	By       string // pcp, nat-pmp, upnp
	Until    time.Time
}

// Mapper keeps one mapping.
type Mapper struct {
	port    uint16
	log     *slog.Logger
	told    func(Mapping)
	gateway chan Gateway
	methods []method
}

// request is what a method is asked for. A lifetime of 0 ends the mapping.
type request struct {
	gateway, source netip.Addr
	port, external  uint16 // inside; wished outside
	lifetime        time.Duration
	nonce           pcpNonce
}

type method struct {
	name string
	ask  func(context.Context, request) (netip.AddrPort, time.Duration, error)
}

// New returns a Mapper for a UDP port. It calls told, from Run's goroutine, when
// a mapping comes, changes or is lost (the zero Mapping).
func New(port uint16, log *slog.Logger, told func(Mapping)) *Mapper {
	return &Mapper{port: port, log: log, told: told, gateway: make(chan Gateway, 1),
		methods: []method{{"pcp", pcp}, {"nat-pmp", natPMP}, {"upnp", new(upnp).ask}}}
}

// Update says which router is on the way out; the zero Gateway: none. A
// Gateway like the last begins nothing.
func (m *Mapper) Update(g Gateway) {
	for {
		select {
		case m.gateway <- g:
			return
		default:
		}
		select {
		case <-m.gateway: // not seen yet, and stale
		default:
		}
	}
}

// Run keeps the mapping until ctx ends.
func (m *Mapper) Run(ctx context.Context) {
	var gateway Gateway
	var now Mapping
	var by method
	nonce := newNonce()
	r := func() request {
		return request{gateway.Via, gateway.Source, m.port, m.port, lifetime, nonce}
	}
	lose := func() {
		if now != (Mapping{}) {
			now = Mapping{}
			m.told(now)
		}
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			if now != (Mapping{}) {
				end, cancel := context.WithTimeout(context.WithoutCancel(ctx), giveBack)
				defer cancel()
				back := r()
				back.lifetime, back.external = 0, now.External.Port()
				by.ask(end, back) // what cannot be given back ends by itself
			}
			return
		case g := <-m.gateway:
			if g == gateway {
				continue
			}
			gateway, nonce = g, newNonce()
			lose()
		case <-timer.C:
		}
		if !gateway.Via.IsValid() {
			continue
		}
		external, life, used, err := m.ask(ctx, r(), by)
		switch {
		case err == nil:
			by = used
			got := Mapping{external, used.name, time.Now().Add(life)}
			if got.External != now.External {
				m.log.Info("port mapped", "endpoint", external, "kind", used.name)
				m.told(got)
			}
			now = got
			timer.Reset(max(life, least) / 2)
		case ctx.Err() != nil:
		case now != (Mapping{}) && time.Now().Before(now.Until):
			timer.Reset(min(afterLoss, time.Until(now.Until)))
		default:
			m.log.Debug("no port mapping", "endpoint", gateway.Via, "err", err)
			lose()
			timer.Reset(retry)
		}
	}
}

// ask asks by each method in turn, the one that worked last first.
func (m *Mapper) ask(ctx context.Context, r request, last method) (netip.AddrPort, time.Duration, method, error) {
	var problems []error
	methods := m.methods
	if last.ask != nil {
		methods = append([]method{last}, methods...)
	}
	for _, by := range methods {
		external, life, err := by.ask(ctx, r)
		if err == nil {
			err = useful(external)
		}
		if err == nil {
			return external, life, by, nil
		}
		problems = append(problems, fmt.Errorf("%s: %w", by.name, err))
		if ctx.Err() != nil {
			break
		}
	}
	return netip.AddrPort{}, 0, method{}, errors.Join(problems...)
}

var shared = netip.MustParsePrefix("100.64.0.0/10") // RFC 6598

// useful says why nobody outside can use an endpoint, or nil.
func useful(e netip.AddrPort) error {
	a := e.Addr()
	if e.Port() == 0 || !a.IsGlobalUnicast() || a.IsPrivate() || shared.Contains(a) {
		return fmt.Errorf("the router's own address %s is not public: another translator is behind it", e)
	}
	return nil
}

// natPMP asks by RFC 6886.
func natPMP(ctx context.Context, r request) (netip.AddrPort, time.Duration, error) {
	type answer struct {
		external netip.AddrPort
		life     time.Duration
		err      error
	}
	got := make(chan answer, 1)
	go func() { // the library knows no context, but ends by itself
		var a answer
		defer func() { got <- a }()
		c := natpmp.NewClientWithTimeout(net.IP(r.gateway.AsSlice()), 2*lastWait)
		external := int(r.external)
		if r.lifetime == 0 {
			external = 0 // RFC 6886 §3.4
		}
		m, err := c.AddPortMapping("udp", int(r.port), external, int(r.lifetime/time.Second))
		if err != nil || r.lifetime == 0 {
			a.err = err
			return
		}
		e, err := c.GetExternalAddress()
		if err != nil {
			a.err = err
			return
		}
		a.external = netip.AddrPortFrom(netip.AddrFrom4(e.ExternalIPAddress), m.MappedExternalPort)
		a.life = time.Duration(m.PortMappingLifetimeInSeconds) * time.Second
	}()
	select {
	case a := <-got:
		return a.external, a.life, a.err
	case <-ctx.Done():
		return netip.AddrPort{}, 0, ctx.Err()
	}
}

// igd is what the kinds of a UPnP router have in common.
type igd interface {
	AddPortMappingCtx(ctx context.Context, remote string, external uint16, protocol string, internal uint16, client string, enabled bool, description string, lease uint32) error
	DeletePortMappingCtx(ctx context.Context, remote string, external uint16, protocol string) error
	GetExternalIPAddressCtx(ctx context.Context) (string, error)
}

// upnp asks an internet gateway device at the gateway's address, and remembers
// the one that answered.
type upnp struct {
	gateway netip.Addr
	router  igd
}

func (u *upnp) ask(ctx context.Context, r request) (_ netip.AddrPort, _ time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, upnpTime)
	defer cancel()
	defer func() {
		if err != nil {
			u.router = nil
		}
	}()
	if u.router == nil || u.gateway != r.gateway {
		if u.router, err = findIGD(ctx, r); err != nil {
			return netip.AddrPort{}, 0, err
		}
		u.gateway = r.gateway
	}
	router := u.router
	if r.lifetime == 0 {
		return netip.AddrPort{}, 0, router.DeletePortMappingCtx(ctx, "", r.external, "UDP")
	}
	text, err := router.GetExternalIPAddressCtx(ctx)
	if err != nil {
		return netip.AddrPort{}, 0, err
	}
	address, err := netip.ParseAddr(text)
	if err != nil {
		return netip.AddrPort{}, 0, err
	}
	for i := range uint16(4) { // another machine may have the port
		external := r.external + i
		if err = router.AddPortMappingCtx(ctx, "", external, "UDP", r.port, r.source.String(), true, upnpReason, uint32(r.lifetime/time.Second)); err == nil {
			return netip.AddrPortFrom(address, external), r.lifetime, nil
		}
	}
	return netip.AddrPort{}, 0, err
}

// findIGD searches the LAN, and describes only what answers at the gateway.
func findIGD(ctx context.Context, r request) (igd, error) {
	search, err := httpu.NewHTTPUClientAddr(r.source.String())
	if err != nil {
		return nil, err
	}
	defer search.Close()
	wait, cancel := context.WithTimeout(ctx, searchTime)
	defer cancel()
	// Every later version answers to version 1 (UPnP Device Architecture 2.0 §1.3.2).
	answers, err := ssdp.RawSearch(wait, search, internetgateway2.URN_WANConnectionDevice_1, 2)
	if err != nil && len(answers) == 0 {
		return nil, err
	}
	err = errNoAnswer
	for _, a := range answers {
		at, bad := a.Location()
		if bad != nil {
			continue
		}
		if ip, bad := netip.ParseAddr(at.Hostname()); bad != nil || ip.Unmap() != r.gateway {
			continue
		}
		device, bad := goupnp.DeviceByURLCtx(ctx, at)
		if bad != nil {
			err = bad
			continue
		}
		if c, _ := internetgateway2.NewWANIPConnection2ClientsFromRootDevice(device, at); len(c) > 0 {
			return c[0], nil
		}
		if c, _ := internetgateway2.NewWANIPConnection1ClientsFromRootDevice(device, at); len(c) > 0 {
			return c[0], nil
		}
		if c, _ := internetgateway2.NewWANPPPConnection1ClientsFromRootDevice(device, at); len(c) > 0 {
			return c[0], nil
		}
	}
	return nil, err
}
