package names

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"gridappliance/internal/splitdns"
)

// keepAgain is how long Keep waits after an error.
const keepAgain = 10 * time.Second

// Keep answers for zone at its own address and has this machine's resolver ask
// there, until ctx ends; by then both are over. It calls told with a line for a
// person whenever that changes. What hinders it is told and tried again: a node
// does not need names to carry packets.
func (s *Server) Keep(ctx context.Context, zone Zone, device string, told func(string)) {
	for {
		err := s.keep(ctx, zone, device, told)
		if ctx.Err() != nil {
			return
		}
		told(hindrance(err))
		select {
		case <-ctx.Done():
			return
		case <-time.After(keepAgain):
		}
	}
}

func (s *Server) keep(ctx context.Context, zone Zone, device string, told func(string)) error {
	l, err := s.Listen(ctx, zone, netip.AddrPortFrom(zone.Own.Address, Port))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var asking sync.WaitGroup
	asking.Go(func() {
		splitdns.Keep(ctx, splitdns.Link{Device: device, Servers: []netip.Addr{zone.Own.Address},
			Search: zone.Search(), Route: zone.Reverse()}, told)
	})
	err = l.Serve(ctx)
	cancel()
	asking.Wait()
	return err
}

// hindrance says why no names are answered, and what to do.
func hindrance(err error) string {
	text := fmt.Sprintf("no names are answered: %v", err)
	switch {
	case errors.Is(err, fs.ErrPermission):
		text += " (CAP_NET_BIND_SERVICE is missing)"
	case errors.Is(err, syscall.EADDRINUSE):
		text += fmt.Sprintf(" (another DNS server has port %d of all addresses: let it listen on its own ones)", Port)
	}
	return text
}
