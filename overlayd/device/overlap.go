package device

import (
	"fmt"
	"net/netip"
	"strings"
)

// Route is one IPv4 route of the underlay, or one address, which is the route
// to itself.
type Route struct {
	To        netip.Prefix
	Via       netip.Addr // gateway; zero on a directly attached network
	Interface string
	Address   bool // To is an address of Interface
}

func (r Route) String() string {
	kind := "route"
	if r.Address {
		kind = "address"
	}
	s := fmt.Sprintf("%s %s", kind, r.To)
	if r.Via.IsValid() {
		s += " via " + r.Via.String()
	}
	if r.Interface != "" {
		s += " on " + r.Interface
	}
	return s
}

// OverlapError says which of the underlay's routes claim addresses of the
// virtual LAN, and what to do about it.
type OverlapError struct {
	Pool   netip.Prefix
	Routes []Route // not empty
}

func (e *OverlapError) Error() string {
	names := make([]string, len(e.Routes))
	for i, r := range e.Routes {
		names[i] = r.String()
	}
	return fmt.Sprintf("the pool %s is in use on the underlay: %s (give that network other addresses, or make the grid with another pool: builder grid new --pool)",
		e.Pool, strings.Join(names, ", "))
}

// CheckOverlap compares the virtual LAN's pool with the underlay's routes.
//
//	route wider than the pool       solved: longest prefix sends pool addresses
//	                                to the device, the rest to the underlay
//	route equal to or inside it     *OverlapError: the underlay would win
//	gateway or own address in it    *OverlapError: the device would win, and
//	                                the underlay be cut off
//
// It returns the routes of the first kind, default routes left out.
func CheckOverlap(pool netip.Prefix, routes []Route) (solved []Route, err error) {
	pool = pool.Masked()
	conflict := &OverlapError{Pool: pool}
	for _, r := range routes {
		switch {
		case r.Via.IsValid() && pool.Contains(r.Via), r.To.Bits() >= pool.Bits() && pool.Overlaps(r.To):
			conflict.Routes = append(conflict.Routes, r)
		case r.To.Bits() > 0 && pool.Overlaps(r.To):
			solved = append(solved, r)
		}
	}
	if len(conflict.Routes) > 0 {
		return nil, conflict
	}
	return solved, nil
}
