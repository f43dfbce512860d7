package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
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

// Backend is what the server asks of the node. Both methods are called from
// many goroutines at once.
type Backend interface {
	// Counters returns a map the caller owns.
	Counters() map[string]uint64
	// Whois returns ErrUnknown, wrapped or not, when nobody is known.
	Whois(ctx context.Context, addr netip.Addr) (Whois, error)
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

// Publish makes s the status and wakes every watcher if s differs. Counters
// are no change and are not taken from s: the server asks the Backend.
func (s *Server) Publish(status Status) {
	status.Counters = nil
	s.mu.Lock()
	defer s.mu.Unlock()
	if reflect.DeepEqual(s.status, status) {
		return
	}
	s.status = status
	close(s.changed)
	s.changed = make(chan struct{})
}

// Status returns the status with its counters, and a channel that is closed
// at the next change.
func (s *Server) Status() (Status, <-chan struct{}) {
	s.mu.Lock()
	status, changed := s.status, s.changed
	s.mu.Unlock()
	status.Counters = s.backend.Counters()
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

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		status, _ := s.Status()
		answer(w, status)
	})
	mux.HandleFunc("GET /v1/whois", s.serveWhois)
	mux.HandleFunc("GET /v1/watch", s.serveWatch)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "no such request: "+r.Method+" "+r.URL.Path, http.StatusBadRequest)
	})
	return mux
}

func (s *Server) serveWhois(w http.ResponseWriter, r *http.Request) {
	text := r.URL.Query().Get("addr")
	addr, err := netip.ParseAddr(text)
	if err != nil {
		http.Error(w, fmt.Sprintf("whois %q: not an address", text), http.StatusBadRequest)
		return
	}
	who, err := s.backend.Whois(r.Context(), addr)
	switch {
	case errors.Is(err, ErrUnknown):
		http.Error(w, "whois "+addr.String(), http.StatusNotFound)
	case err != nil:
		http.Error(w, "whois "+addr.String()+": "+err.Error(), http.StatusInternalServerError)
	default:
		answer(w, who)
	}
}

func (s *Server) serveWatch(w http.ResponseWriter, r *http.Request) {
	for {
		status, changed := s.Status()
		if answer(w, status) != nil || http.NewResponseController(w).Flush() != nil {
			return
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

// answer writes v as one line of JSON.
func answer(w http.ResponseWriter, v any) error {
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(v)
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
