// Package underlay knows how this machine is connected: its addresses, the
// networks they are on and the way out, and when that changes.
//
//	rtnetlink(7): links, addresses, routes ──> 0.2 s of quiet ──> changed
//	                       └────────── Look ──> State
//
// Left out are interfaces that are down, loopback, the overlay's own device,
// and addresses that others cannot use: link-local ones, and IPv6 addresses
// that are tentative, failed or deprecated (RFC 4862 §5.4, §5.5.4). Addresses
// of interfaces with a default route come first, because only eight are told
// to peers and a machine may have many bridges.
//
// Concurrency: everything is safe for concurrent use. Look and Watch look at
// the network namespace of the thread that they are called from.
package underlay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// State is how the machine is connected.
type State struct {
	Addresses  []netip.Prefix // as on the interface: address and prefix length
	Interfaces []Interface    // that have one of them, or a link-local one
	Gateways   []Gateway      // of IPv4 default routes, the preferred one first
}

// Interface is one that is up.
type Interface struct {
	Name      string
	Index     int
	Multicast bool
	Addresses []netip.Addr // IPv4 and IPv6, link-local ones too
}

// Gateway is where a default route leads.
type Gateway struct {
	Via       netip.Addr
	Interface string
	Source    netip.Addr // this machine's address towards it; zero: none is known
	metric    int
}

// Equal reports whether two states are the same.
func (s State) Equal(o State) bool {
	return slices.Equal(s.Addresses, o.Addresses) && slices.Equal(s.Gateways, o.Gateways) &&
		slices.EqualFunc(s.Interfaces, o.Interfaces, func(a, b Interface) bool {
			return a.Name == b.Name && a.Index == b.Index && a.Multicast == b.Multicast && slices.Equal(a.Addresses, b.Addresses)
		})
}

// Host returns endpoints at a port of every address, or of the only one that a
// socket listens on.
func (s State) Host(listen netip.AddrPort) (out []netip.AddrPort) {
	for _, a := range s.Addresses {
		if !listen.Addr().IsValid() || listen.Addr().IsUnspecified() || listen.Addr() == a.Addr() {
			out = append(out, netip.AddrPortFrom(a.Addr(), listen.Port()))
		}
	}
	return out
}

// Attached returns the networks that the addresses are on.
func (s State) Attached() (out []netip.Prefix) {
	for _, a := range s.Addresses {
		if p := a.Masked(); !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

const unusable = unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED | unix.IFA_F_DEPRECATED

// Look returns the state of this moment, without the interface named except.
func Look(except string) (State, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return State{}, fmt.Errorf("list interfaces: %w", err)
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return State{}, fmt.Errorf("list addresses: %w", err)
	}
	var s State
	byIndex := map[int]int{} // in s.Interfaces
	for _, l := range links {
		a := l.Attrs()
		if a.Name == except || a.Flags&net.FlagUp == 0 || a.Flags&net.FlagLoopback != 0 {
			continue
		}
		byIndex[a.Index] = len(s.Interfaces)
		s.Interfaces = append(s.Interfaces, Interface{Name: a.Name, Index: a.Index, Multicast: a.Flags&net.FlagMulticast != 0})
	}
	if s.Gateways, err = gateways(s.Interfaces); err != nil {
		return State{}, err
	}
	type found struct {
		prefix netip.Prefix
		rank   int
	}
	var all []found
	for _, a := range addrs {
		i, ok := byIndex[a.LinkIndex]
		ip, valid := netip.AddrFromSlice(a.IP)
		if !ok || !valid || a.Flags&unusable != 0 {
			continue
		}
		ip = ip.Unmap()
		s.Interfaces[i].Addresses = append(s.Interfaces[i].Addresses, ip)
		if !ip.IsGlobalUnicast() {
			continue
		}
		bits, _ := a.Mask.Size()
		f := found{prefix: netip.PrefixFrom(ip, bits), rank: 2*len(s.Gateways) + 1}
		for k, g := range s.Gateways {
			if g.Interface == s.Interfaces[i].Name {
				f.rank = min(f.rank, 2*k)
			}
		}
		all = append(all, f)
	}
	slices.SortStableFunc(all, func(a, b found) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), a.prefix.Addr().Compare(b.prefix.Addr()))
	})
	for _, f := range all {
		s.Addresses = append(s.Addresses, f.prefix)
	}
	s.Interfaces = slices.DeleteFunc(s.Interfaces, func(i Interface) bool { return len(i.Addresses) == 0 })
	for k := range s.Gateways {
		g := &s.Gateways[k]
		for _, i := range s.Interfaces {
			if i.Name != g.Interface {
				continue
			}
			for _, f := range all {
				if f.prefix.Addr().Is4() && slices.Contains(i.Addresses, f.prefix.Addr()) && (!g.Source.IsValid() || f.prefix.Contains(g.Via)) {
					g.Source = f.prefix.Addr()
				}
			}
		}
	}
	return s, nil
}

// gateways returns the IPv4 default routes through the interfaces.
func gateways(interfaces []Interface) (out []Gateway, err error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		via, ok := netip.AddrFromSlice(r.Gw)
		if r.Dst != nil && !r.Dst.IP.IsUnspecified() || !ok {
			continue
		}
		if ones := 0; r.Dst != nil {
			if ones, _ = r.Dst.Mask.Size(); ones > 0 {
				continue
			}
		}
		for _, i := range interfaces {
			if i.Index == r.LinkIndex {
				out = append(out, Gateway{Via: via.Unmap(), Interface: i.Name, metric: r.Priority})
			}
		}
	}
	slices.SortStableFunc(out, func(a, b Gateway) int { return cmp.Compare(a.metric, b.metric) })
	return out, nil
}

// Implementation: tunable at will.
const (
	settle  = 200 * time.Millisecond // without another change
	longest = 800 * time.Millisecond // a change is told after that in any case
	again   = time.Second            // a subscription is made anew
)

// Watch calls changed after each change of links, addresses or routes, within
// a second, until ctx ends. It returns at once; the returned function waits
// until no call is under way and none will come.
func Watch(ctx context.Context, changed func()) (wait func(), err error) {
	w, err := subscribe()
	if err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			if w.run(ctx, changed) {
				return
			}
			// The kernel had more to tell than the socket holds: what was
			// missed is looked at as a change.
			changed()
			select {
			case <-ctx.Done():
				return
			case <-time.After(again):
			}
			if next, err := subscribe(); err == nil {
				w = next
			}
		}
	}()
	return func() { <-ended }, nil
}

type subscription struct {
	links  chan netlink.LinkUpdate
	addrs  chan netlink.AddrUpdate
	routes chan netlink.RouteUpdate
	broken chan struct{}
	done   chan struct{}
}

func subscribe() (*subscription, error) {
	s := &subscription{make(chan netlink.LinkUpdate, 64), make(chan netlink.AddrUpdate, 64), make(chan netlink.RouteUpdate, 64),
		make(chan struct{}, 3), make(chan struct{})}
	fail := func(error) {
		select {
		case s.broken <- struct{}{}:
		default:
		}
	}
	err := errors.Join(
		netlink.LinkSubscribeWithOptions(s.links, s.done, netlink.LinkSubscribeOptions{ErrorCallback: fail}),
		netlink.AddrSubscribeWithOptions(s.addrs, s.done, netlink.AddrSubscribeOptions{ErrorCallback: fail}),
		netlink.RouteSubscribeWithOptions(s.routes, s.done, netlink.RouteSubscribeOptions{ErrorCallback: fail}))
	if err != nil {
		close(s.done)
		return nil, fmt.Errorf("watch addresses and routes: %w", err)
	}
	return s, nil
}

// run tells of changes until ctx ends (true) or the subscription does.
func (s *subscription) run(ctx context.Context, changed func()) bool {
	defer close(s.done)
	var quiet, limit <-chan time.Time
	for {
		ok := true
		select {
		case <-ctx.Done():
			return true
		case <-s.broken:
			return false
		case <-quiet:
			quiet, limit = nil, nil
			changed()
			continue
		case <-limit:
			quiet, limit = nil, nil
			changed()
			continue
		case _, ok = <-s.links:
		case _, ok = <-s.addrs:
		case _, ok = <-s.routes:
		}
		if !ok {
			return false
		}
		quiet = time.After(settle)
		if limit == nil {
			limit = time.After(longest)
		}
	}
}
