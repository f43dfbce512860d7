package main

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"gridappliance/internal/diag"
	"gridappliance/overlayd/bootstrap"
	"gridappliance/overlayd/session"
	"gridappliance/overlayd/stream"
	"gridappliance/overlayd/transport"
)

type bootstrapOptions struct{ listen, listenTCP, limit, metrics string }

func newBootstrapCommand() *cobra.Command {
	var o bootstrapOptions
	cmd := &cobra.Command{
		Use:   "bootstrap",
		Short: "be the first contact of any grid, without being in one",
		Long: `bootstrap serves machines that know nobody yet: it tells each how it is seen
from outside and who else of its grid is there, and carries what two of them
say to each other until they have a way of their own. It needs a public
address, and neither root nor a device nor a floppy, and serves any number of
grids. It can read nothing of what it carries.

Name it in the grids that shall use it: builder grid new --bootstrap HOST:4242,
or [network] bootstrap in a machine's GRID.TML. It answers STUN too.`,
		Example: `  overlayd bootstrap
  overlayd bootstrap --listen :4242 --listen-tcp :443 --limit 20Mbit/s --metrics 127.0.0.1:9465`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runBootstrap(cmd.Context(), o, newLogger(cmd.ErrOrStderr()))
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.listen, "listen", ":4242", "UDP endpoint; without an address, all of them")
	f.StringVar(&o.listenTCP, "listen-tcp", "", "TCP endpoint for machines whose network drops UDP, such as :443 (default none)")
	f.StringVar(&o.limit, "limit", "100Mbit/s", "what is carried for all members together")
	f.StringVar(&o.metrics, "metrics", "", "TCP endpoint of Prometheus metrics, such as 127.0.0.1:9465 (default none)")
	return cmd
}

func runBootstrap(ctx context.Context, o bootstrapOptions, log *slog.Logger) error {
	listen, err := parseEndpoint("--listen", o.listen)
	if err != nil {
		return diag.UsageError{Err: err}
	}
	limit, err := parseRate(o.limit)
	if err != nil {
		return diag.UsageError{Err: fmt.Errorf("--limit %w", err)}
	}
	conn, err := transport.UDP{}.Listen(listen)
	if err != nil {
		return fmt.Errorf("open underlay: %w", err)
	}
	defer conn.Close()
	r := rendezvous{udp: transport.Batched(conn), tcp: stream.New(),
		server: bootstrap.NewServer(bootstrap.ServerConfig{Limit: limit, Random: crand.Reader, Rand: rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))}, time.Now())}
	g, ctx := errgroup.WithContext(ctx)
	if o.listenTCP != "" {
		at, err := parseEndpoint("--listen-tcp", o.listenTCP)
		if err != nil {
			return diag.UsageError{Err: err}
		}
		l, err := stream.Listen(at)
		if err != nil {
			return fmt.Errorf("listen on TCP: %w", err)
		}
		log.Info("listening on TCP", "endpoint", l.Addr())
		g.Go(func() error { return r.tcp.Serve(l) })
	}
	if o.metrics != "" {
		l, err := net.Listen("tcp", o.metrics)
		if err != nil {
			r.tcp.Close()
			return fmt.Errorf("listen for metrics: %w", err)
		}
		log.Info("metrics", "endpoint", "http://"+l.Addr().String()+"/metrics")
		g.Go(func() error { return r.serveMetrics(ctx, l) })
	}
	g.Go(r.serveUDP)
	g.Go(r.serveTCP)
	g.Go(func() error {
		<-ctx.Done()
		notify("STOPPING=1")
		return errors.Join(conn.Close(), r.tcp.Close())
	})
	notify("READY=1")
	log.Info("bootstrap started", "endpoint", conn.LocalAddr(), "limit", o.limit)
	return g.Wait()
}

// rendezvous gives a bootstrap's machine its sockets.
type rendezvous struct {
	udp transport.Batch
	tcp *stream.Streams

	mu     sync.Mutex
	server *bootstrap.Server
}

// serveUDP passes on what comes until the socket is closed. Datagrams that one
// member sends another in a run leave as a run.
func (r *rendezvous) serveUDP() error {
	in := make([]transport.Message, 8)
	for i := range in {
		in[i].Data = make([]byte, 0, transport.MaxDatagram)
	}
	var out []transport.Message
	for {
		n, err := r.udp.Receive(in)
		if errors.Is(err, transport.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read underlay: %w", err)
		}
		out = out[:0]
		for i := range in[:n] {
			out = r.handle(out, &in[i])
		}
		if _, err := r.udp.Transmit(out); errors.Is(err, transport.ErrClosed) {
			return nil
		}
	}
}

// handle appends what one message leads to.
func (r *rendezvous) handle(out []transport.Message, m *transport.Message) []transport.Message {
	r.mu.Lock()
	defer r.mu.Unlock()
	now, from := time.Now(), m.Peer
	if session.VirtualKind(from.Addr()) != session.NotVirtual {
		from = netip.AddrPort{} // nothing comes from there: counted as forged
	}
	run := -1 // of out: the last carried datagram's message, which may grow
	offset := 0
	for d, rest := m.Next(m.Data); ; d, rest = m.Next(rest) {
		to, answer := r.server.Handle(now, from, d)
		inPlace := len(answer) == len(d) && len(d) > 0 && &answer[0] == &d[0]
		switch {
		case answer == nil:
			run = -1
		case session.VirtualKind(to.Addr()) != session.NotVirtual:
			run = -1
			r.tcp.WriteTo(answer, to)
		case inPlace && run >= 0 && out[run].Peer == to:
			out[run].Data = out[run].Data[:len(out[run].Data)+len(d)]
		case inPlace && rest != nil:
			run = len(out)
			out = append(out, transport.Message{Data: m.Data[offset : offset+len(d)], Segment: m.Segment, Peer: to})
		default:
			run = -1
			out = append(out, transport.Message{Data: answer, Peer: to})
		}
		offset += len(d)
		if rest == nil {
			return out
		}
	}
}

// serveTCP does the same for what comes over TCP.
func (r *rendezvous) serveTCP() error {
	b := make([]byte, stream.MaxDatagram)
	for {
		n, from, err := r.tcp.ReadFrom(b)
		if errors.Is(err, transport.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		r.mu.Lock()
		to, answer := r.server.Handle(time.Now(), from, b[:n])
		r.mu.Unlock()
		switch {
		case answer == nil:
		case session.VirtualKind(to.Addr()) != session.NotVirtual:
			r.tcp.WriteTo(answer, to)
		default:
			r.udp.WriteTo(answer, to) // what the kernel refuses is lost like any datagram
		}
	}
}

func (r *rendezvous) serveMetrics(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		r.writeMetrics(w)
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// writeMetrics writes Prometheus's text exposition, version 0.0.4.
func (r *rendezvous) writeMetrics(w io.Writer) {
	r.mu.Lock()
	c := r.server.Counters()
	members, grids := r.server.Len()
	r.mu.Unlock()
	t := r.tcp.Counters()
	put := func(name, kind, help string, value uint64) {
		fmt.Fprintf(w, "# HELP overlayd_bootstrap_%[1]s %[2]s\n# TYPE overlayd_bootstrap_%[1]s %[3]s\noverlayd_bootstrap_%[1]s %[4]d\n", name, help, kind, value)
	}
	put("members", "gauge", "members enrolled", uint64(members))
	put("grids", "gauge", "tags that members are enrolled under", uint64(grids))
	put("enrolled_total", "counter", "places given", c.Enrolled)
	put("left_total", "counter", "places lost", c.Left)
	put("cookies_total", "counter", "cookies sent", c.Cookies)
	put("stun_total", "counter", "STUN binding requests answered", c.STUN)
	put("carried_total", "counter", "datagrams carried", c.Carried)
	put("carried_bytes_total", "counter", "bytes carried", c.CarriedBytes)
	put("carried_handshake_total", "counter", "datagrams of handshakes among them", c.CarrySetup)
	put("tcp_accepted_total", "counter", "TCP connections taken", t.Accepted)
	put("tcp_refused_total", "counter", "TCP connections refused: too many", t.Refused)
	put("tcp_dropped_total", "counter", "datagrams that did not fit a TCP connection's queue", t.Dropped)
	fmt.Fprint(w, "# HELP overlayd_bootstrap_dropped_total datagrams that got no further, by reason\n# TYPE overlayd_bootstrap_dropped_total counter\n")
	for i, n := range c.Drops {
		if d := bootstrap.Drop(i); d != bootstrap.NoDrop {
			fmt.Fprintf(w, "overlayd_bootstrap_dropped_total{reason=%q} %d\n", d, n)
		}
	}
}

// parseRate reads "20Mbit/s" as bytes a second.
func parseRate(text string) (int, error) {
	number, unit := text, ""
	if i := strings.IndexFunc(text, func(r rune) bool { return (r < '0' || r > '9') && r != '.' }); i >= 0 {
		number, unit = text[:i], text[i:]
	}
	factor := map[string]float64{"kbit/s": 1e3, "Mbit/s": 1e6, "Gbit/s": 1e9}[unit]
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || factor == 0 || n*factor < 1e5 || n*factor > 1e12 {
		return 0, fmt.Errorf("%q: want a rate of at least 100kbit/s, such as 20Mbit/s", text)
	}
	return int(n * factor / 8), nil
}
