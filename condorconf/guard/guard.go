// Package guard answers what HTCondor's own programs ask of the virtual
// network, and takes back slots from machines that are refused there.
//
//	hook, as the job's account ── POST /v1/claim ──► guard ── whois ──► overlayd
//	startd's cron, as condor ──── GET /v1/way ─────►       ── ping ───►
//	                                                   │ every 10 s: whois of every claim
//	                      startd ◄── condor_vacate ────┘ whose machine is refused
//
// It is there because neither jobs nor condor may reach overlayd's socket:
// whoever connects here learns where the slot that it runs in was claimed from,
// and how far the pool's master is, and nothing else.
//
// Whose a claim is, the guard takes from the starter that the caller is a child
// of: startd writes the name of the machine that claimed the slot, by the
// address of its connection, on the starter's command line. A caller is told
// by the kernel (unix(7), SO_PEERCRED), and a starter by running as root.
//
// Service is safe for concurrent use. Limits on purpose: HTTP on a Unix socket
// that everybody on the machine may connect to; one request is 64 KiB at most.
package guard

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"gridappliance/condorconf/pool"
	"gridappliance/overlayd/control"
)

// SocketPath is where the guard listens unless told otherwise.
const SocketPath = "/run/grid-guard/guard.sock"

const (
	maxRequest  = 64 << 10         // bytes
	askTime     = 5 * time.Second  // for one question to overlayd
	sweepEvery  = 10 * time.Second // whether a claim's machine is refused by now
	stopTimeout = time.Second      // for requests under way at the end
)

// Verdict is the answer about a claim.
type Verdict struct {
	Refused string `json:"refused,omitempty"` // why the job must not start
	Unknown string `json:"unknown,omitempty"` // why nobody can say now: another time
}

// Way is how this machine reaches the first master that answers.
type Way struct {
	Master string         `json:"master"`
	Path   control.Path   `json:"path"`
	RTT    control.Millis `json:"rtt_ms"`
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
	Vacate  func(ctx context.Context, slot string) error // ends what runs on a slot, and the claim
	Log     *slog.Logger
}

// Run serves on ln, and looks after the machine's claims, until ctx ends.
func (s *Service) Run(ctx context.Context, ln net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/claim", s.serveClaim)
	mux.HandleFunc("GET /v1/way", s.serveWay)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: askTime, ReadTimeout: askTime,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, callerKey{}, caller(c))
		}}
	swept := make(chan struct{})
	go func() {
		defer close(swept)
		s.sweepUntilDone(ctx)
	}()
	context.AfterFunc(ctx, func() {
		patience, done := context.WithTimeout(context.Background(), stopTimeout)
		defer done()
		if server.Shutdown(patience) != nil {
			server.Close()
		}
	})
	err := server.Serve(ln)
	cancel()
	<-swept
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve %s: %w", ln.Addr(), err)
}

// Listen opens the socket for everybody on the machine.
func Listen(path string) (net.Listener, error) {
	if err := os.RemoveAll(path); err != nil {
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
	var claim pool.Claim
	if err := json.NewDecoder(io.LimitReader(r.Body, maxRequest)).Decode(&claim); err != nil {
		http.Error(w, "no claim: "+err.Error(), http.StatusBadRequest)
		return
	}
	pid, _ := r.Context().Value(callerKey{}).(int)
	answer(w, s.judge(r.Context(), pid, claim))
}

// judge decides on the claim that the process pid asks about.
func (s *Service) judge(ctx context.Context, pid int, claim pool.Claim) Verdict {
	starter, err := starterOf(pid)
	if err != nil {
		return Verdict{Unknown: err.Error()}
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	who, err := s.claimer(ctx, starter)
	if errors.Is(err, control.ErrBarred) {
		return Verdict{Refused: err.Error()}
	}
	if err != nil {
		return Verdict{Unknown: err.Error()}
	}
	if err := claim.Check(who); err != nil {
		s.Log.Warn("job refused", "slot", starter.slot, "from", starter.host, "reason", err)
		return Verdict{Refused: err.Error()}
	}
	return Verdict{}
}

// claimer returns who holds the address that a starter's slot was claimed from.
func (s *Service) claimer(ctx context.Context, st starter) (control.Whois, error) {
	addr, err := netip.ParseAddr(st.host) // where the name server did not answer startd
	if err != nil {
		status, statusErr := s.Overlay.Status(ctx)
		if statusErr != nil {
			return control.Whois{}, statusErr
		}
		if addr, err = control.ParseHostName(st.host, status.Address.Masked()); err != nil {
			return control.Whois{}, err
		}
	}
	who, err := s.Overlay.Whois(ctx, addr)
	if err != nil {
		return control.Whois{}, fmt.Errorf("whois %s: %w", addr, err)
	}
	return who, nil
}

func (s *Service) serveWay(w http.ResponseWriter, r *http.Request) {
	way, err := s.way(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	answer(w, way)
}

func (s *Service) way(ctx context.Context) (Way, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	status, err := s.Overlay.Status(ctx)
	if err != nil {
		return Way{}, err
	}
	err = errors.New("the grid names no master")
	for _, m := range status.Masters {
		var pong control.Pong
		if pong, err = s.Overlay.Ping(ctx, control.Target{Address: m.Address}); err == nil {
			return Way{Master: m.Name, Path: pong.Path, RTT: pong.RTT}, nil
		}
	}
	return Way{}, err
}

// sweepUntilDone ends claims of machines that are refused, until ctx ends.
func (s *Service) sweepUntilDone(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			starters, err := starters()
			if err != nil {
				s.Log.Error("claims not looked at", "err", err)
			}
			s.sweep(ctx, starters)
		}
	}
}

// sweep ends the claims among starters whose machine is refused. HTCondor
// itself would hold such a slot for the job's lease, 40 minutes: it takes a
// machine that is not heard of for one that is cut off and comes back.
func (s *Service) sweep(ctx context.Context, starters []starter) {
	for _, st := range starters {
		if err := s.look(ctx, st); err != nil {
			s.Log.Error("slot not taken back", "slot", st.slot, "from", st.host, "err", err)
		}
	}
}

// look ends the claim of a starter whose machine is refused.
func (s *Service) look(ctx context.Context, st starter) error {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	_, reason := s.claimer(ctx, st)
	if !errors.Is(reason, control.ErrBarred) {
		return nil
	}
	status, err := s.Overlay.Status(ctx)
	if err != nil {
		return err
	}
	s.Log.Warn("slot taken back", "slot", st.slot, "from", st.host, "reason", reason)
	return s.Vacate(ctx, st.slot+"@"+status.Name)
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}
