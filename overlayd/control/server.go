package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"reflect"
	"sync"
	"syscall"
	"time"
)

const (
	socketMode    = 0o660           // root and the daemon's group
	headerTimeout = 5 * time.Second // a client that sends no request is dropped
	stopTimeout   = 1 * time.Second // for requests under way when the daemon stops
	maxHeader     = 8 << 10         // bytes of one request
)

// Backend is what the server asks of the node. All methods are called from
// many goroutines at once, and return early when ctx ends. Errors that a
// caller can tell apart are this package's, wrapped or not: ErrUnknown for a
// target that names nobody known, ErrBarred for one whose certificate is
// refused, ErrNoAnswer, ErrBusy, ErrRefused.
type Backend interface {
	// Live returns maps the caller owns.
	Live() Live
	Whois(ctx context.Context, who Target) (Whois, error)

	// Peers returns every node with a session, in the order of node IDs.
	Peers(ctx context.Context) ([]Peer, error)
	// Why answers without sessions for a node that is known and has none.
	Why(ctx context.Context, who Target) (Why, error)
	// Ping asks who for one sign of life, making a session first if need be.
	Ping(ctx context.Context, who Target) (Pong, error)

	Lookup(ctx context.Context, key Key) (Found, error)
	// Crawl calls visit for each member in ring order, this node first, until
	// it has been round or visit returns an error, which it returns.
	Crawl(ctx context.Context, visit func(Crawled) error) error

	// Get returns no records, and no error, where there are none.
	Get(ctx context.Context, name RecordName) ([]Record, error)
	// Put keeps a record until Withdraw or the node ends; a zero lifetime is
	// the kind's own. ErrRefused: this node may not have such a record.
	Put(ctx context.Context, name RecordName, value []byte, lifetime time.Duration) (Stored, error)
	Withdraw(ctx context.Context, name RecordName) (Stored, error)

	// Publish takes the text of a descriptor or revocation list. ErrRefused:
	// it is not newer, or not the grid's.
	Publish(ctx context.Context, text []byte) error
}

// Server answers on the control socket with the Status that was published
// last. Its methods are safe for concurrent use.
type Server struct {
	backend Backend

	mu      sync.Mutex
	status  Status
	changed chan struct{} // closed and replaced by every change of status
}

// NewServer returns a Server that has first to show.
func NewServer(b Backend, first Status) *Server {
	return &Server{backend: b, status: first, changed: make(chan struct{})}
}

// Publish makes s the status and wakes every watcher if s differs. Live is no
// change and is not taken from s: the server asks the Backend.
func (s *Server) Publish(status Status) {
	status.Live = Live{}
	s.mu.Lock()
	defer s.mu.Unlock()
	if reflect.DeepEqual(s.status, status) {
		return
	}
	s.status = status
	close(s.changed)
	s.changed = make(chan struct{})
}

// Status returns the status of the moment, and a channel that is closed
// at the next change.
func (s *Server) Status() (Status, <-chan struct{}) {
	s.mu.Lock()
	status, changed := s.status, s.changed
	s.mu.Unlock()
	status.Live = s.backend.Live()
	return status, changed
}

// Serve answers on ln until ctx ends, then closes ln, ends the watches, waits
// up to stopTimeout for requests under way and returns nil. Any other end is
// an error.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	srv := &http.Server{
		Handler:           s.routes(),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext:       withCaller,
		ReadHeaderTimeout: headerTimeout,
		MaxHeaderBytes:    maxHeader,
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		patience, done := context.WithTimeout(context.Background(), stopTimeout)
		defer done()
		if srv.Shutdown(patience) != nil {
			srv.Close() // a watcher that does not read, a client that never asks
		}
	}()
	err := srv.Serve(ln)
	cancel()
	<-stopped
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve %s: %w", ln.Addr(), err)
}

// Listen opens the control socket at path with mode 0660. A socket that a
// dead daemon left behind is replaced; one that answers, or a file of any
// other kind, is an error (errors.Is with syscall.EADDRINUSE).
func Listen(path string) (net.Listener, error) {
	if err := removeStale(path); err != nil {
		return nil, fmt.Errorf("listen %s: %w", path, err)
	}
	// The file takes its mode from the socket's inode less the umask, so it is
	// at no moment more open than socketMode (Linux, unix_bind).
	cfg := net.ListenConfig{Control: narrow}
	ln, err := cfg.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, socketMode); err != nil { // what the umask took
		ln.Close()
		return nil, err
	}
	return ln, nil
}

func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%w: a file that is not a socket is in the way", syscall.EADDRINUSE)
	}
	conn, err := net.Dial("unix", path)
	if err == nil {
		conn.Close()
		return fmt.Errorf("%w: another overlayd answers there", syscall.EADDRINUSE)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}
