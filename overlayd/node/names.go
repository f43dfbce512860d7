package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"gridappliance/credential"
	"gridappliance/overlayd/control"
	"gridappliance/overlayd/core"
	"gridappliance/overlayd/dht"
	"gridappliance/overlayd/names"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/vnet"
)

// domainState is what the loop knows of the DNS server, which runs beside it.
type domainState struct {
	server *names.Server
	zones  chan names.Zone // the newest that is not served yet
	zone   names.Zone      // the last one sent
	status string          // what the server says of itself
}

func newDomain(n *Node) domainState {
	return domainState{server: names.New(resolver{n}), zones: make(chan names.Zone, 1)}
}

// followNames hands the DNS server its zone when that has changed: no address,
// no names.
func (n *Node) followNames() {
	var zone names.Zone
	if n.deviceUp && n.address.IsValid() {
		zone = names.Zone{Own: n.hostOf(n.id, n.address.Addr()), Pool: n.pool, Pool6: vnet.Prefix6(n.namespace)}
	}
	if zone == n.domain.zone {
		return
	}
	n.domain.zone = zone
	select {
	case <-n.domain.zones: // the one before has not been looked at
	default:
	}
	n.domain.zones <- zone
}

// serveNames runs the DNS server for one zone after the other, until ctx ends.
func (n *Node) serveNames(ctx context.Context) {
	stop := func() {}
	defer func() { stop() }()
	for {
		var zone names.Zone
		select {
		case <-ctx.Done():
			return
		case zone = <-n.domain.zones:
		}
		stop()
		stop = func() {}
		n.tellNames(ctx, "")
		if zone == (names.Zone{}) {
			continue
		}
		serving, cancel := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() {
			defer close(done)
			n.domain.server.Keep(serving, zone, n.cfg.Device, func(line string) { n.tellNames(serving, line) })
		}()
		stop = func() { cancel(); <-done }
	}
}

// tellNames makes line what the status says of names.
func (n *Node) tellNames(ctx context.Context, line string) {
	n.inLoop(ctx, func(time.Time) {
		if line != n.domain.status && line != "" {
			n.log.Info("names", "detail", line)
		}
		n.domain.status = line
		n.unpublished = true
	})
}

// hostOf is a node as its names stand for it.
func (n *Node) hostOf(id nodeid.ID, addr netip.Addr) names.Host {
	return names.Host{Address: addr, Address6: vnet.Address6(n.namespace, id)}
}

// hostNames are this node's names beside that of its address: a master's, and
// the chosen one while it is held.
func (n *Node) hostNames() []string {
	held := n.held
	if n.fixed && n.cert.Node.Role == credential.RoleMaster {
		held = append([]string{n.cert.Node.User + control.Domain}, held...)
	}
	return held
}

// owns says whether a label in lower case is this node's.
func (n *Node) owns(label string) bool {
	if !n.deviceUp {
		return false
	}
	name := label + control.Domain
	return strings.EqualFold(name, control.HostName(n.address.Addr())) || slices.Contains(n.hostNames(), name)
}

// dns is what a status says of names.
func (n *Node) dns() control.DNS {
	d := control.DNS{State: n.domain.status}
	if zone := n.domain.zone; zone != (names.Zone{}) {
		d.Server, d.Search, d.Route = zone.Own.Address, zone.Search(), zone.Reverse()
	}
	return d
}

// locate keeps the record that says which address this node has.
func (n *Node) locate(now time.Time) {
	if n.address.IsValid() {
		n.handle(now, core.Put{Name: n.locator(n.id), Value: n.address.Addr().AsSlice()})
		return
	}
	n.handle(now, core.Withdraw{Name: n.locator(n.id)})
}

func (n *Node) locator(id nodeid.ID) dht.Name {
	return dht.Name{Kind: dht.KindLocator, Namespace: n.namespace, Name: id.String()}
}

// located finds out who a node ID is by the address that its own record names,
// and by who holds that.
func (n *Node) located(now time.Time, id nodeid.ID, then func(found, error)) {
	n.ask(now, func(token uint64) core.Event { return core.Get{Token: token, Name: n.locator(id)} }, func(a core.Action) {
		got := a.(core.Records)
		for _, record := range got.Records {
			addr, ok := netip.AddrFromSlice(record.Value)
			if record.Owner != id || !ok || !n.pool.Contains(addr) {
				continue
			}
			n.find(now, control.Target{Address: addr}, func(f found, err error) {
				if err == nil && f.id != id {
					err = control.ErrUnknown // it has the address no more
				}
				then(f, err)
			})
			return
		}
		if got.Err == nil {
			got.Err = core.ErrUnknownName
		}
		then(found{}, requestError(got.Err))
	})
}

// namesCounters adds the DNS server's counters.
func (n *Node) namesCounters(to map[string]uint64) {
	c := n.domain.server.Counters()
	for name, v := range map[string]uint64{"dns/answered": c.Answered, "dns/failed": c.Failed, "dns/refused": c.Refused,
		"drop/dns-malformed": c.Malformed, "drop/dns-stranger": c.Strange, "drop/dns-too-many": c.TooMany} {
		to[name] = v
	}
}

// resolver is what the DNS server asks of the node.
type resolver struct{ n *Node }

// Host implements names.Resolver.
func (r resolver) Host(ctx context.Context, label string) (names.Host, error) {
	return r.find(ctx, func(now time.Time, then func(found, error)) {
		switch {
		case r.n.owns(label):
			then(found{id: r.n.id, addr: r.n.address.Addr()}, nil)
		case !r.n.member: // nobody can be asked
			then(found{}, errNoRing)
		default:
			r.n.find(now, control.Target{Name: label}, then)
		}
	})
}

// HostOf implements names.Resolver.
func (r resolver) HostOf(ctx context.Context, addr netip.Addr) (names.Host, error) {
	return r.find(ctx, func(now time.Time, then func(found, error)) {
		if !r.n.member && !slices.Contains(r.n.own(), addr) {
			then(found{}, errNoRing)
			return
		}
		r.n.find(now, control.Target{Address: addr}, then)
	})
}

// find asks the loop for one machine.
func (r resolver) find(ctx context.Context, ask func(now time.Time, then func(found, error))) (names.Host, error) {
	h, err := call(ctx, r.n, func(now time.Time, answer func(names.Host, error)) {
		ask(now, func(f found, err error) {
			if err == nil && !f.addr.Is4() {
				err = control.ErrUnknown
			}
			answer(r.n.hostOf(f.id, f.addr), err)
		})
	})
	if errors.Is(err, control.ErrUnknown) {
		err = fmt.Errorf("%w: %w", names.ErrNotFound, err)
	}
	return h, err
}

// Services implements names.Resolver.
func (r resolver) Services(ctx context.Context, service string) ([]names.Offer, error) {
	member, err := call(ctx, r.n, func(_ time.Time, answer func(bool, error)) { answer(r.n.member, nil) })
	if err == nil && !member {
		err = errNoRing
	}
	if err != nil {
		return nil, err
	}
	records, err := r.n.Get(ctx, control.RecordName{Kind: dht.KindService.String(), Name: service})
	if err != nil {
		return nil, err
	}
	var offers []names.Offer
	for _, record := range records {
		owner, err := nodeid.Parse(record.Owner)
		if err != nil {
			return nil, err
		}
		// Who does not say where it is offers nothing that DNS could name.
		host, err := r.find(ctx, func(now time.Time, then func(found, error)) { r.n.find(now, control.Target{NodeID: owner}, then) })
		if err == nil {
			offers = append(offers, names.Offer{Host: host, Value: record.Value})
		}
	}
	return offers, nil
}
