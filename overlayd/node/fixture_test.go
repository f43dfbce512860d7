package node

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gridappliance/credential"
	"gridappliance/floppy"
	"gridappliance/overlayd/device"
	"gridappliance/overlayd/transport"
	"gridappliance/overlayd/underlay"
)

// testGrid is a grid with two masters, made at the moment.
type testGrid struct {
	t       *testing.T
	grid    *credential.Grid
	masters []credential.MasterMaterial
}

func newTestGrid(t *testing.T) *testGrid {
	t.Helper()
	g, err := credential.NewGrid(credential.GridOptions{
		Name: "archer", Masters: 2, Namespaces: []credential.Namespace{{Name: "archer"}},
	}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return &testGrid{t, g, g.Material}
}

func (g *testGrid) files(role string, more ...floppy.File) *floppy.Floppy {
	g.t.Helper()
	files := append([]floppy.File{
		{Name: floppy.ConfigFile, Data: []byte("version = 1\n[machine]\nrole = \"" + role + "\"\n")},
		{Name: floppy.DescriptorFile, Data: g.grid.Descriptor.Text()},
	}, more...)
	f, err := floppy.Decode("test.img", files)
	if err != nil {
		g.t.Fatal(err)
	}
	if problems := f.Check(time.Now()); len(problems) > 0 {
		g.t.Fatal(problems)
	}
	return f
}

// master returns the floppy of master 0 or 1.
func (g *testGrid) master(i int) *floppy.Floppy {
	g.t.Helper()
	m := g.masters[i]
	return g.files("master",
		floppy.File{Name: floppy.HolderCertFile, Data: m.HolderCert}, floppy.File{Name: floppy.HolderKeyFile, Data: m.HolderKey},
		floppy.File{Name: floppy.NodeKeyFile, Data: m.NodeKey},
		floppy.File{Name: floppy.IssuerCertFile, Data: m.IssuerCert}, floppy.File{Name: floppy.IssuerKeyFile, Data: m.IssuerKey})
}

// worker returns a worker's floppy that is valid for a time.
func (g *testGrid) worker(valid time.Duration) *floppy.Floppy {
	g.t.Helper()
	cert, key, err := g.grid.IssueHolder(credential.HolderRequest{
		User: "alice", Group: "physics", Roles: []credential.Role{credential.RoleWorker}, Valid: valid,
	}, time.Now())
	if err != nil {
		g.t.Fatal(err)
	}
	return g.files("worker", floppy.File{Name: floppy.HolderCertFile, Data: cert}, floppy.File{Name: floppy.HolderKeyFile, Data: key})
}

// world is what a test's node runs in.
type world struct {
	t        *testing.T
	host     device.Memory
	underlay transport.Memory
	state    string // folder
	instance string

	mu   sync.Mutex
	told []string // by Notify
}

func newWorld(t *testing.T) *world {
	return &world{t: t, state: t.TempDir(), instance: "machine-1"}
}

var listenAt = netip.MustParseAddrPort("192.0.2.1:4242")

func (w *world) config(f *floppy.Floppy) Config {
	begun := time.Now().Add(-time.Hour)
	return Config{
		Floppy: f, StateDir: w.state, Control: newSilentListener(), Listen: listenAt,
		Instance: w.instance, Version: "test", Log: slog.New(slog.DiscardHandler),
		Host: &w.host, Underlay: &w.underlay, Clock: func() time.Duration { return time.Since(begun) },
		Look: func(string) (underlay.State, error) {
			return underlay.State{Addresses: []netip.Prefix{netip.PrefixFrom(listenAt.Addr(), 24)}}, nil
		},
		Notify: func(state string) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.told = append(w.told, state)
		},
	}
}

func (w *world) notified() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.told...)
}

// start runs a node until its bubble has nothing left to do. stop ends it and
// returns what Run returned.
func (w *world) start(cfg Config) (n *Node, stop func() error) {
	w.t.Helper()
	n, err := New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	synctest.Wait()
	return n, func() error {
		cancel()
		return <-ended
	}
}

// silentListener is a control socket that nobody connects to; unlike a real
// one, waiting on it does not stop a bubble's clock.
type silentListener struct {
	once   sync.Once
	closed chan struct{}
}

func newSilentListener() *silentListener { return &silentListener{closed: make(chan struct{})} }

func (l *silentListener) Accept() (net.Conn, error) {
	<-l.closed
	return nil, net.ErrClosed
}

func (l *silentListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *silentListener) Addr() net.Addr { return &net.UnixAddr{Name: "silent", Net: "unix"} }
