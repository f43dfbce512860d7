// Package splitdns has systemd-resolved ask one DNS server about some domains
// on one network link, and everything else as before.
//
//	getent, ssh, HTCondor ──> systemd-resolved ──┬─ *.ipop, the pool's reverse names ──> server on the link
//	                                             └─ anything else ──> the host's own servers
//
// It speaks D-Bus (org.freedesktop.resolve1(5)): the link's servers, its
// search and routing domains, and that the link is no default route for names.
// Settings of a link go with the link; Keep also takes them back.
//
// Where there is no systemd-resolved, or it serves another network namespace
// than this process's (a test's, a container's), nothing is touched: /etc/resolv.conf and
// the host's servers are never written by this package, so that they cannot be
// broken by it.
//
// Who may: root, or whom polkit lets. Images have no polkit (it would bring a
// set-uid helper); there grid-watch, which is root, calls Keep for overlayd,
// which is not, and overlayd sees by State that it was done.
//
// Concurrency: a Conn is safe for concurrent use.
package splitdns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
)

// Errors that callers tell apart, beside fs.ErrPermission.
var (
	ErrAbsent    = errors.New("systemd-resolved does not run here")
	ErrManaged   = errors.New("the link belongs to systemd-networkd")
	ErrElsewhere = errors.New("systemd-resolved serves another network namespace")
)

const (
	service = "org.freedesktop.resolve1"
	path    = dbus.ObjectPath("/org/freedesktop/resolve1")
	manager = service + ".Manager"
	link    = service + ".Link"

	callTime = 3 * time.Second // resolved answers at once or not at all
)

// Link is what systemd-resolved knows of a network link.
type Link struct {
	Device  string
	Servers []netip.Addr
	Search  []string // domains that short names are tried with, too
	Route   []string // domains that are asked for here, and no more
}

// equal says whether two say the same; the order of domains says nothing.
func (l Link) equal(other Link) bool {
	return l.Device == other.Device && slices.Equal(l.Servers, other.Servers) &&
		slices.Equal(sorted(l.Search), sorted(other.Search)) && slices.Equal(sorted(l.Route), sorted(other.Route))
}

func sorted(list []string) []string { return slices.Sorted(slices.Values(list)) }

// Conn is a connection to systemd-resolved.
type Conn struct{ bus *dbus.Conn }

// Open connects to a systemd-resolved that runs; ErrAbsent, if none does.
func Open(ctx context.Context) (*Conn, error) {
	bus, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("%w: no system bus: %w", ErrAbsent, err)
	}
	var running bool
	err = bus.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.NameHasOwner", 0, service).Store(&running)
	if err != nil || !running {
		bus.Close()
		return nil, errors.Join(ErrAbsent, err)
	}
	return &Conn{bus}, nil
}

// Close closes the connection.
func (c *Conn) Close() error { return c.bus.Close() }

// call asks the manager; it never starts resolved.
func (c *Conn) call(ctx context.Context, method string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	return meaning(c.bus.Object(service, path).CallWithContext(ctx, manager+"."+method, dbus.FlagNoAutoStart, args...).Err)
}

// meaning wraps the error that stands for resolved's own.
func meaning(err error) error {
	var e dbus.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Name {
	case "org.freedesktop.DBus.Error.AccessDenied", "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired",
		"org.freedesktop.DBus.Error.AuthFailed":
		return fmt.Errorf("%w: %w", fs.ErrPermission, err)
	case service + ".LinkBusy":
		return fmt.Errorf("%w: %w", ErrManaged, err)
	case service + ".NoSuchLink":
		return fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	case "org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner":
		return fmt.Errorf("%w: %w", ErrAbsent, err)
	}
	return err
}

// sameNetwork returns nil when resolved is in this process's network
// namespace: it knows links by number, and in another namespace that is another
// link. Only root may look (proc(5), /proc/pid/ns), and only root may set
// anything.
func (c *Conn) sameNetwork(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	var pid uint32
	if err := c.bus.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.GetConnectionUnixProcessID", 0, service).Store(&pid); err != nil {
		return meaning(err)
	}
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return fmt.Errorf("%w: %w", fs.ErrPermission, err)
	}
	ours, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return err
	}
	if ours != theirs {
		return ErrElsewhere
	}
	return nil
}

// address and domain are a(iay) and a(sb) of the interface.
type address struct {
	Family int32
	Bytes  []byte
}

type domain struct {
	Name  string
	Route bool
}

// Set makes l what resolved knows of the link.
func (c *Conn) Set(ctx context.Context, l Link) error {
	if err := c.sameNetwork(ctx); err != nil {
		return err
	}
	at, err := net.InterfaceByName(l.Device)
	if err != nil {
		return fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	var domains []domain
	for _, name := range l.Search {
		domains = append(domains, domain{name, false})
	}
	for _, name := range l.Route {
		domains = append(domains, domain{name, true})
	}
	var servers []address
	for _, a := range l.Servers {
		family := int32(2) // AF_INET
		if a.Is6() {
			family = 10 // AF_INET6
		}
		servers = append(servers, address{family, a.AsSlice()})
	}
	index := int32(at.Index)
	// The servers come last: a link with servers and no domains would be asked
	// about everything for a moment.
	for _, call := range []struct {
		method string
		value  any
	}{
		{"SetLinkDefaultRoute", false},
		{"SetLinkDomains", domains},
		{"SetLinkDNSSEC", "no"}, // nobody signs these domains
		{"SetLinkDNSOverTLS", "no"},
		{"SetLinkLLMNR", "no"},
		{"SetLinkDNS", servers},
	} {
		if err := c.call(ctx, call.method, index, call.value); err != nil {
			return fmt.Errorf("%s of %s: %w", call.method, l.Device, err)
		}
	}
	return nil
}

// Revert makes resolved forget what it was told of a link. A link that is gone
// is no error.
func (c *Conn) Revert(ctx context.Context, device string) error {
	if err := c.sameNetwork(ctx); err != nil {
		return err
	}
	at, err := net.InterfaceByName(device)
	if err != nil {
		return nil
	}
	if err := c.call(ctx, "RevertLink", int32(at.Index)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("RevertLink of %s: %w", device, err)
	}
	return nil
}

// State returns what resolved knows of a link.
func (c *Conn) State(ctx context.Context, device string) (Link, error) {
	l := Link{Device: device}
	at, err := net.InterfaceByName(device)
	if err != nil {
		return l, fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	var object dbus.ObjectPath
	err = c.bus.Object(service, path).CallWithContext(ctx, manager+".GetLink", dbus.FlagNoAutoStart, int32(at.Index)).Store(&object)
	if err != nil {
		return l, fmt.Errorf("GetLink of %s: %w", device, meaning(err))
	}
	var servers []address
	var domains []domain
	if err := c.property(ctx, object, link+".DNS", &servers); err != nil {
		return l, err
	}
	if err := c.property(ctx, object, link+".Domains", &domains); err != nil {
		return l, err
	}
	for _, s := range servers {
		if a, ok := netip.AddrFromSlice(s.Bytes); ok {
			l.Servers = append(l.Servers, a)
		}
	}
	for _, d := range domains {
		if d.Route {
			l.Route = append(l.Route, d.Name)
		} else {
			l.Search = append(l.Search, d.Name)
		}
	}
	return l, nil
}

// Mode is how /etc/resolv.conf leads to resolved (resolved's ResolvConfMode).
type Mode string

// The modes.
const (
	ModeStub    Mode = "stub"    // to resolved: all programs ask it
	ModeStatic  Mode = "static"  // likewise
	ModeUplink  Mode = "uplink"  // past it, to a list of all servers it knows
	ModeForeign Mode = "foreign" // past it, to servers of others
	ModeMissing Mode = "missing"
)

// Mode returns how programs that read /etc/resolv.conf reach resolved.
func (c *Conn) Mode(ctx context.Context) (Mode, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	var mode string
	err := c.property(ctx, path, manager+".ResolvConfMode", &mode)
	return Mode(mode), err
}

func (c *Conn) property(ctx context.Context, object dbus.ObjectPath, name string, to any) error {
	dot := strings.LastIndex(name, ".")
	var v dbus.Variant
	err := c.bus.Object(service, object).CallWithContext(ctx, "org.freedesktop.DBus.Properties.Get", dbus.FlagNoAutoStart, name[:dot], name[dot+1:]).Store(&v)
	if err == nil {
		err = v.Store(to)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", name, meaning(err))
	}
	return nil
}
