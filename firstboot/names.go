package main

import (
	"context"
	"net/netip"
	"reflect"
	"time"

	"gridappliance/internal/splitdns"
	"gridappliance/overlayd/control"
)

// followNames has systemd-resolved ask overlayd about the grid's names while
// overlayd answers: that needs root, which overlayd's user is not.
func (w *watcher) followNames(ctx context.Context) {
	client := control.Dial(w.control)
	var kept control.DNS
	stop := func() {}
	defer func() { stop() }()
	follow := func(device string, d control.DNS) {
		d.State = "" // which says, among other things, what is done here
		if reflect.DeepEqual(d, kept) {
			return
		}
		stop()
		kept, stop = d, func() {}
		if d.Server.IsValid() {
			stop = w.keepNames(ctx, device, d)
		}
	}
	for ctx.Err() == nil {
		for s, err := range client.Watch(ctx) {
			if err != nil {
				break
			}
			follow(s.Device, s.DNS)
		}
		follow("", control.DNS{})
		select {
		case <-ctx.Done():
		case <-time.After(controlEvery):
		}
	}
}

// keepNames begins to keep what resolved knows; stop takes it back.
func (w *watcher) keepNames(ctx context.Context, device string, d control.DNS) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		link := splitdns.Link{Device: device, Servers: []netip.Addr{d.Server}, Search: d.Search, Route: d.Route}
		splitdns.Keep(ctx, link, func(line string) { w.log.Info("names", "detail", line) })
	}()
	return func() { cancel(); <-done }
}
