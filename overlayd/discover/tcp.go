package discover

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"gridappliance/overlayd/bootstrap"
)

// dial is a TCP connection to a named host, or the attempt.
type dial struct {
	to      netip.AddrPort
	name    string // what TLS calls it
	end     netip.AddrPort
	dialing bool
	next    time.Time
	pause   time.Duration
}

type dialResult struct {
	dial *dial
	end  netip.AddrPort
	err  error
}

// watchUDP notes whether UDP works: a bootstrap has answered within a minute,
// or a peer is reached directly.
func (f *Finder) watchUDP(now time.Time) {
	works := len(f.direct) > 0 || now.Sub(f.heardUDP) < udpLife
	switch {
	case works:
		f.silent = time.Time{}
	case f.silent.IsZero():
		f.silent = now
	}
}

// tendDials opens TCP connections while UDP is silent, and closes them when it
// works again.
func (f *Finder) tendDials(ctx context.Context, now time.Time) {
	if f.cfg.Streams == nil {
		return
	}
	wanted := !f.silent.IsZero() && now.Sub(f.silent) >= tcpAfter
	if wanted {
		for _, n := range f.names {
			for _, e := range n.endpoints {
				to := netip.AddrPortFrom(e.Addr(), tcpPort)
				known := slices.ContainsFunc(f.dials, func(d *dial) bool { return d.to == to })
				if !known && !f.own(e) && len(f.dials) < perSource {
					f.dials = append(f.dials, &dial{to: to, name: n.host, pause: tcpEvery})
				}
			}
		}
	}
	f.dials = slices.DeleteFunc(f.dials, func(d *dial) bool {
		if d.end.IsValid() && (!wanted || !f.cfg.Streams.Open(d.end)) {
			f.cfg.Log.Info("TCP connection gone", "endpoint", d.to, "reason", map[bool]string{true: "closed", false: "UDP works"}[wanted])
			f.cfg.Streams.Hang(d.end)
			f.enrol(ctx, now, bootstrap.Remove{At: d.end})
			f.members = slices.DeleteFunc(f.members, func(m met) bool { return m.at == d.end })
			number := f.cfg.Table.Number(d.end)
			delete(f.kinds, d.end)
			f.setPlaces(ctx, slices.DeleteFunc(slices.Clone(f.places), placeAt(number)))
			d.end = netip.AddrPort{}
		}
		return !wanted && !d.dialing
	})
	if !wanted {
		return
	}
	for _, d := range f.dials {
		if d.dialing || d.end.IsValid() || d.next.After(now) {
			continue
		}
		d.dialing, d.next = true, now.Add(d.pause)
		d.pause = min(tcpLast, 2*d.pause)
		f.working.Go(func() {
			end, err := f.cfg.Streams.Dial(ctx, d.to, d.name)
			select {
			case f.dialed <- dialResult{d, end, err}:
			case <-ctx.Done():
			}
		})
	}
}

func (f *Finder) takeDial(ctx context.Context, now time.Time, r dialResult) {
	r.dial.dialing = false
	if r.err != nil {
		f.cfg.Log.Debug("no TCP connection", "endpoint", r.dial.to, "err", r.err)
		return
	}
	f.cfg.Log.Info("UDP is silent: connected over TCP", "endpoint", r.dial.to)
	r.dial.end, r.dial.pause = r.end, tcpEvery
	f.enrol(ctx, now, bootstrap.Add{At: r.end})
}
