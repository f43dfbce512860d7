package splitdns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"
)

const (
	keepEvery  = 30 * time.Second // how soon somebody else's change is noticed
	againSoon  = 2 * time.Second  // after an error: the link may be about to come
	revertTime = 2 * time.Second
)

// Keep has resolved know l until ctx ends, and then has it forget that, who
// ever said so: a process that was killed may have left it. It calls told with
// a line for a person whenever that changes.
func Keep(ctx context.Context, l Link, told func(string)) {
	var last string
	for {
		err := keep(ctx, l)
		if text := say(l, err); ctx.Err() == nil && text != last {
			last = text
			told(text)
		}
		wait := keepEvery
		if err != nil && !settled(err) {
			wait = againSoon
		}
		select {
		case <-time.After(wait):
			continue
		case <-ctx.Done():
		}
		break
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), revertTime)
	defer cancel()
	forget(ctx, l)
}

// keep looks once, and sets what is not as it should be.
func keep(ctx context.Context, l Link) error {
	c, err := Open(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	mode, err := c.Mode(ctx)
	if err != nil {
		return err
	}
	if mode == ModeUplink { // the server would be in a list for all names
		return errUplink
	}
	now, err := c.State(ctx, l.Device)
	if err != nil {
		return err
	}
	if !now.equal(l) {
		if err := c.Set(ctx, l); err != nil {
			return err
		}
	}
	if mode != ModeStub && mode != ModeStatic {
		return errForeign
	}
	return nil
}

// forget reverts the link, if it is as l says. It does what it can: who may
// not change resolved has not changed it.
func forget(ctx context.Context, l Link) {
	c, err := Open(ctx)
	if err != nil {
		return
	}
	defer c.Close()
	if now, err := c.State(ctx, l.Device); err == nil && now.equal(l) {
		c.Revert(ctx, l.Device)
	}
}

// What the host's administrator has decided, and stays.
var (
	errUplink  = errors.New("/etc/resolv.conf leads past systemd-resolved")
	errForeign = errors.New("/etc/resolv.conf names other servers")
)

// settled says whether an error is a state of the host rather than a mishap
// that may soon be over.
func settled(err error) bool {
	for _, e := range []error{ErrAbsent, ErrManaged, ErrElsewhere, fs.ErrPermission, errUplink, errForeign} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// say is what an attempt came to, for a person.
func say(l Link, err error) string {
	domains := "." + strings.Join(l.Search, ", .")
	server := "this machine's own"
	if len(l.Servers) > 0 {
		server = l.Servers[0].String()
	}
	switch {
	case err == nil:
		return fmt.Sprintf("systemd-resolved asks %s about %s", server, domains)
	case errors.Is(err, errForeign):
		return fmt.Sprintf("systemd-resolved asks %s about %s, but /etc/resolv.conf names other servers and is left alone", server, domains)
	case errors.Is(err, errUplink):
		return fmt.Sprintf("/etc/resolv.conf leads past systemd-resolved and is left alone; %s answers about %s when asked", server, domains)
	case errors.Is(err, ErrAbsent):
		return fmt.Sprintf("systemd-resolved does not run here and /etc/resolv.conf is left alone; %s answers about %s when asked", server, domains)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("systemd-resolved lets only root change it (grid-watch does, where it runs); %s answers about %s when asked", server, domains)
	case errors.Is(err, ErrElsewhere):
		return fmt.Sprintf("systemd-resolved serves another network namespace; %s answers about %s when asked", server, domains)
	case errors.Is(err, ErrManaged):
		return fmt.Sprintf("%s belongs to systemd-networkd, whose .network file for it must go; %s answers about %s when asked", l.Device, server, domains)
	}
	return fmt.Sprintf("systemd-resolved does not ask %s about %s: %v", server, domains, err)
}
