package discover

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"gridappliance/overlayd/bootstrap"
)

// Implementation: tunable at will.
const (
	resolveEvery = time.Minute
	resolveRetry = 5 * time.Second // doubles
	resolveLast  = 5 * time.Minute
	resolveTime  = 10 * time.Second
	maxAddresses = 8 // of one name
)

// name is a host and port, or an address.
type name struct {
	Name
	host      string
	port      uint16
	endpoints []netip.AddrPort
	next      time.Time // of the next look-up; zero: never
	pause     time.Duration
	asked     time.Time
	asking    bool
	answered  bool // or not to be found
}

func parseName(n Name) (*name, bool) {
	if e, err := netip.ParseAddrPort(n.Text); err == nil {
		return &name{Name: n, endpoints: []netip.AddrPort{netip.AddrPortFrom(e.Addr().Unmap().WithZone(""), e.Port())}}, true
	}
	host, text, err := net.SplitHostPort(n.Text)
	if err != nil {
		return nil, false // descriptor and floppy are checked before
	}
	port, err := strconv.ParseUint(text, 10, 16)
	return &name{Name: n, host: host, port: uint16(port), next: time.Unix(1, 0), pause: resolveRetry}, err == nil && port > 0
}

// parseNames makes names of texts; of those that were there before it keeps
// what is known.
func parseNames(before []*name, texts []Name) (out []*name) {
	for _, t := range texts {
		if slices.ContainsFunc(out, func(n *name) bool { return n.Text == t.Text }) {
			continue
		}
		if i := slices.IndexFunc(before, func(n *name) bool { return n.Name == t }); i >= 0 {
			out = append(out, before[i])
		} else if n, ok := parseName(t); ok {
			out = append(out, n)
		}
	}
	return out
}

func (f *Finder) setNames(ctx context.Context, now time.Time, e Named) {
	f.cfg.Tags = slices.Clone(e.Tags)
	f.enrol(ctx, now, bootstrap.Tags{List: e.Tags})
	before := f.names
	f.names = parseNames(before, e.Names)
	for _, n := range before {
		f.forget(ctx, now, n.endpoints)
	}
}

// forget leaves endpoints that no name has any more.
func (f *Finder) forget(ctx context.Context, now time.Time, endpoints []netip.AddrPort) {
	for _, e := range endpoints {
		if f.named(e) {
			continue
		}
		f.enrol(ctx, now, bootstrap.Remove{At: e})
		if f.kinds[e] == isBootstrap {
			f.setPlaces(ctx, slices.DeleteFunc(slices.Clone(f.places), placeAt(f.cfg.Table.Number(e))))
		}
		delete(f.kinds, e)
	}
}

// soon lets a name be looked up again as soon as it may be.
func (n *name) soon(now time.Time) {
	if n.host != "" {
		n.pause = resolveRetry
		n.next = n.asked.Add(resolveRetry)
		if n.next.Before(now) {
			n.next = now
		}
	}
}

type resolution struct {
	name  *name
	found []netip.Addr
	err   error
}

// resolve begins the look-ups that are due. An address needs none, but enrols.
func (f *Finder) resolve(ctx context.Context, now time.Time) {
	for _, n := range f.names {
		if n.host == "" {
			if n.asked.IsZero() {
				n.asked = now
				f.enrol(ctx, now, bootstrap.Add{At: n.endpoints[0]})
			}
			continue
		}
		if n.asking || n.next.After(now) {
			continue
		}
		n.asking, n.asked = true, now
		f.working.Go(func() {
			limit, cancel := context.WithTimeout(ctx, resolveTime)
			defer cancel()
			found, err := f.cfg.Resolver.LookupNetIP(limit, "ip", n.host)
			select {
			case f.resolved <- resolution{n, found, err}:
			case <-ctx.Done():
			}
		})
	}
}

func (f *Finder) takeResolution(ctx context.Context, now time.Time, r resolution) {
	n := r.name
	if !slices.Contains(f.names, n) {
		return // named no more
	}
	n.asking, n.answered = false, true
	if r.err != nil || len(r.found) == 0 {
		if n.pause == resolveRetry && ctx.Err() == nil {
			f.cfg.Log.Warn("first contact not found", "endpoint", n.Text, "err", r.err)
		}
		n.next = now.Add(n.pause)
		n.pause = min(resolveLast, 2*n.pause)
		return // what was found before may still be right
	}
	n.pause, n.next = resolveRetry, now.Add(resolveEvery)
	var endpoints []netip.AddrPort
	for _, a := range r.found[:min(len(r.found), maxAddresses)] {
		endpoints = append(endpoints, netip.AddrPortFrom(a.Unmap().WithZone(""), n.port))
	}
	slices.SortFunc(endpoints, netip.AddrPort.Compare)
	before := n.endpoints
	n.endpoints = slices.Compact(endpoints)
	for _, e := range n.endpoints {
		f.enrol(ctx, now, bootstrap.Add{At: e})
	}
	f.forget(ctx, now, before)
}

func (f *Finder) named(e netip.AddrPort) bool {
	return slices.ContainsFunc(f.names, func(n *name) bool { return slices.Contains(n.endpoints, e) })
}
