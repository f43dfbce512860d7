package main

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"time"

	"gridappliance/condorconf/pool"
	"gridappliance/overlayd/control"
)

// collectors is the record that masters publish while their collector answers:
// the store takes it from a master's certificate alone.
var collectors = control.RecordName{Kind: "service", Name: "collector"}

const (
	offersTime = 5 * time.Second // for asking the store
	pingTime   = time.Second     // for asking one master how far it is
)

// readOffers returns what the masters of the roster say of themselves. What
// cannot be learned now is left out: a machine is configured all the same.
func readOffers(ctx context.Context, overlay *control.Client, s control.Status) []pool.Offer {
	asking, cancel := context.WithTimeout(ctx, offersTime)
	defer cancel()
	records, err := overlay.Get(asking, collectors)
	if err != nil {
		return nil
	}
	var offers []pool.Offer
	for _, m := range s.Masters {
		for _, r := range records {
			var o pool.Offer
			if json.Unmarshal(r.Value, &o) != nil || o.Master != m.Name {
				continue
			}
			if who, err := overlay.Whois(asking, m.Address); err != nil || who.NodeID != r.Owner {
				continue // one master speaks for another
			}
			offers = append(offers, o)
		}
	}
	if len(offers) > 1 {
		for i := range offers {
			offers[i].RTT = distance(ctx, overlay, s, offers[i].Master)
		}
	}
	return offers
}

// distance returns the round trip time to a master, 0 when it does not answer.
func distance(ctx context.Context, overlay *control.Client, s control.Status, name string) time.Duration {
	ctx, cancel := context.WithTimeout(ctx, pingTime)
	defer cancel()
	for _, m := range s.Masters {
		if m.Name == name {
			if pong, err := overlay.Ping(ctx, control.Target{Address: m.Address}); err == nil {
				return time.Duration(pong.RTT)
			}
		}
	}
	return 0
}

var condorHost = regexp.MustCompile(`(?m)^CONDOR_HOST = (.*)$`)

// current returns the masters that the tree's configuration names.
func current(root *os.Root) ([]string, error) {
	text, err := root.ReadFile(pool.MastersFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	found := condorHost.FindSubmatch(text)
	if err != nil || found == nil {
		return nil, err
	}
	return strings.FieldsFunc(string(found[1]), func(r rune) bool { return r == ',' || r == ' ' }), nil
}
