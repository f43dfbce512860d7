// Package guard answers what HTCondor's own programs ask of the virtual
// network.
//
//	before each job, as its account ── GET /v1/claim ──► guard ── whois ────────► overlayd
//	                                                       └──── condor_status ─► startd
//	startd's cron, as condor ───────── GET /v1/view ───► guard ── status, ping ─► overlayd
//
// It is there because neither jobs nor condor may reach overlayd's socket:
// whoever connects here learns whether the slot that it runs in was claimed in
// its own name, how far the pool's master is and who is refused, and nothing
// else.
//
// Whose a claim is, the guard takes from the starter that the caller is a child
// of: startd writes the name of the machine that claimed the slot, by the
// address of its connection, on the starter's command line. A caller is told
// by the kernel (unix(7), SO_PEERCRED), and a starter by running as root.
//
// Service is safe for concurrent use. Limits on purpose: HTTP on a Unix socket
// that everybody on the machine may connect to.
package guard

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"gridappliance/condorconf/pool"
	"gridappliance/overlayd/control"
)

// SocketPath is where the guard listens unless told otherwise.
const SocketPath = "/run/grid-guard/guard.sock"

const (
	maxAnswer   = 64 << 10        // bytes
	askTime     = 5 * time.Second // for one question to overlayd
	stopTimeout = time.Second     // for requests under way at the end
)

// Verdict is the answer about a claim.
type Verdict struct {
	Refused string `json:"refused,omitempty"` // why the job must not start
	Unknown string `json:"unknown,omitempty"` // why nobody can say now: ask again
}

// View is what a machine sees of its grid.
type View struct {
	// How it reaches the first master that answers; no path when none does.
	Path control.Path   `json:"path,omitempty"`
	RTT  control.Millis `json:"rtt_ms,omitzero"`
	// Barred are host names of machines whose certificate is refused.
	Barred []string `json:"barred,omitempty"`
	// Refused are names of slots whose job must not start: slot1_1@C250000007.ipop.
	Refused []string `json:"refused,omitempty"`
}

// Overlay is what the guard asks of overlayd: control.Client.
type Overlay interface {
	Status(context.Context) (control.Status, error)
	Whois(context.Context, netip.Addr) (control.Whois, error)
	Ping(context.Context, control.Target) (control.Pong, error)
}

// Service is the guard of one machine.
type Service struct {
	Overlay Overlay
	// Claim asks startd for the claim of a slot of this machine.
	Claim func(ctx context.Context, machine, slot string) (pool.Claim, error)
	Log   *slog.Logger

	mu      sync.Mutex
	refused map[starter]bool // whose slot has not been given back yet
}

// Run serves on ln until ctx ends.
func (s *Service) Run(ctx context.Context, ln net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/claim", s.serveClaim)
	mux.HandleFunc("GET /v1/view", s.serveView)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: askTime, ReadTimeout: askTime,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, callerKey{}, caller(c))
		}}
	stopped := make(chan struct{})
	context.AfterFunc(ctx, func() {
		defer close(stopped)
		patience, done := context.WithTimeout(context.Background(), stopTimeout)
		defer done()
		if server.Shutdown(patience) != nil {
			server.Close()
		}
	})
	err := server.Serve(ln)
	cancel()
	<-stopped
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve %s: %w", ln.Addr(), err)
}

// Listen opens the socket for everybody on the machine.
func Listen(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o666); err != nil {
		ln.Close()
		return nil, err
	}
	return ln, nil
}

// callerKey is where a connection's context has its caller's process number.
type callerKey struct{}

// caller returns the process that connected, 0 when the kernel does not say.
func caller(c net.Conn) (pid int) {
	conn, ok := c.(*net.UnixConn)
	if !ok {
		return 0
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0
	}
	raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	return pid
}

func (s *Service) serveClaim(w http.ResponseWriter, r *http.Request) {
	pid, _ := r.Context().Value(callerKey{}).(int)
	answer(w, s.judge(r.Context(), pid))
}

// judge decides on the claim of the slot that the process pid is in.
func (s *Service) judge(ctx context.Context, pid int) Verdict {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	st, err := starterOf(pid)
	if err != nil {
		return Verdict{Unknown: err.Error()}
	}
	status, err := s.Overlay.Status(ctx)
	if err != nil {
		return Verdict{Unknown: err.Error()}
	}
	who, err := s.claimer(ctx, st, status)
	if err != nil && !errors.Is(err, control.ErrBarred) {
		return Verdict{Unknown: err.Error()}
	}
	if err == nil {
		claim, unknown := s.Claim(ctx, status.Name, st.slot)
		if unknown != nil {
			return Verdict{Unknown: unknown.Error()}
		}
		err = claim.Check(who)
	}
	if err == nil {
		return Verdict{}
	}
	s.Log.Warn("job refused", "slot", st.slot, "from", st.host, "reason", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refused == nil {
		s.refused = map[starter]bool{}
	}
	s.refused[st] = true
	return Verdict{Refused: err.Error()}
}

// claimer returns who holds the address that a starter's slot was claimed from.
func (s *Service) claimer(ctx context.Context, st starter, self control.Status) (control.Whois, error) {
	addr, err := netip.ParseAddr(st.host) // where the name server did not answer startd
	if err != nil {
		if addr, err = control.ParseHostName(st.host, self.Address.Masked()); err != nil {
			return control.Whois{}, err
		}
	}
	return s.Overlay.Whois(ctx, addr)
}

// refusedSlots returns the slots whose refused job is still there, sorted.
func (s *Service) refusedSlots() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var slots []string
	for st := range s.refused {
		if now, err := readStarter(st.pid); err != nil || now != st {
			delete(s.refused, st)
			continue
		}
		slots = append(slots, st.slot)
	}
	slices.Sort(slots)
	return slots
}

func (s *Service) serveView(w http.ResponseWriter, r *http.Request) {
	view, err := s.view(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	answer(w, view)
}

func (s *Service) view(ctx context.Context) (v View, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	status, err := s.Overlay.Status(ctx)
	if err != nil {
		return v, err
	}
	for _, slot := range s.refusedSlots() {
		v.Refused = append(v.Refused, slot+"@"+status.Name)
	}
	for _, addr := range status.Barred {
		if addr.Is4() {
			v.Barred = append(v.Barred, control.HostName(addr))
		}
	}
	for _, m := range status.Masters {
		if pong, err := s.Overlay.Ping(ctx, control.Target{Address: m.Address}); err == nil {
			v.Path, v.RTT = pong.Path, pong.RTT
			break
		}
	}
	return v, nil
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}
