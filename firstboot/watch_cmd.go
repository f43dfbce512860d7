package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"gridappliance/firstboot/apply"
	"gridappliance/firstboot/source"
	"gridappliance/firstboot/watch"
	"gridappliance/internal/diag"
	"gridappliance/internal/sysrun"
	"gridappliance/overlayd/control"
)

const (
	mediaEvery   = 3 * time.Second  // a person who puts a floppy in waits for it
	controlEvery = 2 * time.Second  // before the control socket is tried again
	notifyEvery  = time.Minute      // systemd's watchdog waits 300 s
	settleTime   = 30 * time.Second // the consoles' logins wait so long for a machine that works, or says why not
	unitLimit    = 90 * time.Second // for one unit to start or stop
	condorLimit  = 60 * time.Second // for condorconf
	offerLife    = 45 * time.Second // of what a master says of itself, unless it repeats it
	offersEvery  = 12 * time.Second // with offerLife: a master's death is known within a minute
	queryLimit   = 20 * time.Second // for one question to HTCondor
)

// newWatchCommand returns the verb watch.
func newWatchCommand(m *machine) *cobra.Command {
	w := watcher{machine: m, events: make(chan watch.Event)}
	c := &cobra.Command{
		Use:   "watch",
		Short: "follow the address and the floppy of this machine",
		Long: `watch runs for as long as the machine does, as grid-watch.service. When overlayd
has an address, or another one, it gives the machine its name, has condorconf
write the configuration, starts or restarts what has changed, and prints the
READY line on every console when everything works. A floppy put in later, or a
changed one, is checked and applied. HTCondor's credential is renewed in time.
When the machine was suspended by its hypervisor, the clock is put right.`,
		Example: "  firstboot watch",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if !m.live() {
				return diag.UsageError{Err: errors.New("watch works on this machine only, without --root")}
			}
			w.log = slog.New(slog.NewTextHandler(c.ErrOrStderr(), nil))
			return w.run(c.Context())
		},
	}
	c.Flags().StringVar(&w.condorconf, "condorconf", "/usr/lib/grid/condorconf", "the program that configures HTCondor")
	c.Flags().StringVar(&w.control, "control", control.SocketPath, "overlayd's control socket")
	return c
}

// watcher connects watch.Machine to the machine: it owns the loop, turns
// actions into work, and work's ends into events.
type watcher struct {
	*machine
	control    string
	condorconf string
	log        *slog.Logger
	events     chan watch.Event
	wg         sync.WaitGroup
	settled    sync.Once // systemd has been told that this unit is up

	mu     sync.Mutex // guards what follows
	status status     // as it was told last
}

// readyPath holds the READY line announced in this boot.
const readyPath = "run/grid/ready"

// run returns when ctx has ended and everything it started has.
func (w *watcher) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer w.wg.Wait()
	defer cancel()
	state := watch.New(w.text(readyPath))
	first, err := w.first()
	if err != nil {
		return err
	}
	if !w.own() {
		w.spawn(func() { w.followMedia(ctx) })
	}
	w.spawn(func() { w.followNode(ctx) })
	w.spawn(func() { w.followOffers(ctx) })
	w.spawn(func() { w.followNames(ctx) })
	if !w.own() { // whose clock is its owner's
		w.spawn(func() { w.followClock(ctx) })
	}
	settle := time.AfterFunc(settleTime, w.settle)
	defer settle.Stop()
	w.perform(ctx, state.Handle(time.Now(), first))
	alive := time.NewTicker(notifyEvery)
	defer alive.Stop()
	for {
		var deadline <-chan time.Time
		if d := state.NextDeadline(); !d.IsZero() {
			deadline = time.After(time.Until(d))
		}
		select {
		case <-ctx.Done():
			return nil
		case e := <-w.events:
			w.perform(ctx, state.Handle(time.Now(), e))
		case <-deadline:
			w.perform(ctx, state.Handle(time.Now(), watch.Tick{}))
		case <-alive.C:
			daemon.SdNotify(false, daemon.SdNotifyWatchdog)
		}
	}
}

// settle tells systemd that this unit is up: the machine works, or it has said
// why not, or somebody may want to look. The logins on the consoles start after
// it, so that the machine works sooner and they greet with its name.
func (w *watcher) settle() {
	w.settled.Do(func() { daemon.SdNotify(false, daemon.SdNotifyReady) })
}

func (w *watcher) spawn(f func()) {
	w.wg.Add(1)
	go func() {
		defer w.wg.Done()
		f()
	}()
}

// send hands an event to the loop, unless it has ended.
func (w *watcher) send(ctx context.Context, e watch.Event) {
	select {
	case w.events <- e:
	case <-ctx.Done():
	}
}

// first returns how the boot's apply ended.
func (w *watcher) first() (watch.Event, error) {
	var err error
	if w.status, err = w.readStatus(); err != nil {
		return nil, err
	}
	if _, err := os.Stat(w.path(apply.AppliedMark)); err == nil {
		stamp, err := w.stamp()
		if err != nil || stamp == nil {
			return nil, fmt.Errorf("read /%s: %w", apply.StampPath, errors.Join(err, os.ErrNotExist))
		}
		return applied(nil, stamp), nil
	}
	if s := w.status.State; s == watch.StateRefused || s == watch.StateFailed {
		return watch.Refused{Reason: w.status.Detail}, nil
	}
	return watch.NoFloppy{}, nil
}

// applied returns the event for a tree that went from one stamp to another.
func applied(before, after *apply.Stamp) watch.Applied {
	if before == nil {
		before = &apply.Stamp{}
	}
	return watch.Applied{Plan: after.Plan, Role: string(after.Role), Grid: after.Grid, Group: after.Group,
		Hostname: after.Hostname, Overlay: after.Overlay(), Units: watch.Diff(before.Units, after.Units)}
}

// perform carries out actions: jobs beside the loop, the rest at once.
func (w *watcher) perform(ctx context.Context, actions []watch.Action) {
	for _, a := range actions {
		switch a := a.(type) {
		case watch.Tell:
			w.tell(a.Report)
		case watch.Announce:
			w.say(a.Line)
			w.log.Info("ready", "line", a.Line)
			if err := os.WriteFile(w.path(readyPath), []byte(a.Line+"\n"), 0o644); err != nil {
				w.log.Warn("not remembered", "err", err)
			}
			w.settle()
		default:
			w.spawn(func() { w.send(ctx, w.job(ctx, a)) })
		}
	}
}

// tell makes r the status, for people and for systemd.
func (w *watcher) tell(r watch.Report) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r.State != w.status.State || r.Detail != w.status.Detail {
		w.log.Info("state", "state", string(r.State), "detail", r.Detail)
		if r.Detail != "" && (r.State == watch.StateFailed || r.State == watch.StateRefused) {
			w.say(prefix + r.Detail)
		}
	}
	w.status.Report = r
	if err := w.writeStatus(w.status); err != nil {
		w.log.Warn("status not written", "err", err)
	}
	daemon.SdNotify(false, strings.TrimSpace("STATUS="+string(r.State)+" "+r.Detail))
	switch r.State {
	case watch.StateReady, watch.StateFailed, watch.StateRefused, watch.StateWaiting:
		w.settle()
	}
}

// job does one job and returns the event that ends it.
func (w *watcher) job(ctx context.Context, a watch.Action) watch.Event {
	switch a := a.(type) {
	case watch.Look:
		return w.look(ctx)
	case watch.Host:
		return watch.HostDone{Err: w.name(a)}
	case watch.Configure:
		return w.configure(ctx)
	case watch.Units:
		w.log.Info("units", "stop", a.Stop, "reload", a.Reload, "restart", a.Restart, "start", a.Start)
		return watch.UnitsDone{Err: manage(ctx, a)}
	case watch.Probe:
		return watch.Probed{Err: probe(ctx, a)}
	case watch.Offer:
		return watch.Offered{Err: w.offer(ctx, a.Text)}
	}
	panic(fmt.Sprintf("unknown action %T", a)) // a mistake of ours
}

// look looks for a floppy that was put in, and makes the machine what it says.
func (w *watcher) look(ctx context.Context) watch.Event {
	found, err := source.FindInserted(ctx, w.sources())
	if err == nil && found == nil {
		return watch.Unchanged{}
	}
	var r apply.Result
	if err == nil {
		_, r, err = w.accept(found)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err != nil:
		w.status.Errors = problemLines(err)
		return watch.Refused{Reason: oneLine(err)}
	case r.Before != nil && r.Before.Plan == r.After.Plan && !r.Changed():
		return watch.Unchanged{}
	}
	w.status.Source, w.status.Passed, w.status.Errors = found.Source, nil, nil
	w.say(fmt.Sprintf("%staken: the floppy of %s, role %s", prefix, found.Source, r.After.Role))
	return applied(r.Before, r.After)
}

// name gives the machine its name, on disk and at once.
func (w *watcher) name(h watch.Host) error {
	tree, err := w.tree()
	if err != nil {
		return err
	}
	defer tree.Close()
	var masters []apply.Host
	for _, m := range strings.Fields(h.Masters) {
		name, text, _ := strings.Cut(m, "=")
		address, err := netip.ParseAddr(text)
		if err != nil {
			return fmt.Errorf("read masters %q: %w", h.Masters, err)
		}
		masters = append(masters, apply.Host{Name: name, Address: address})
	}
	if err := apply.SetHost(tree, apply.Host{Name: h.Name, Address: h.Address}, h.Alias, masters); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(h.Name)); err != nil {
		return fmt.Errorf("set host name %s: %w", h.Name, err)
	}
	return nil
}

// configure runs condorconf and takes its answer.
func (w *watcher) configure(ctx context.Context) watch.Event {
	ctx, cancel := context.WithTimeout(ctx, condorLimit)
	defer cancel()
	out, err := sysrun.Output(ctx, w.condorconf, "write", "--control", w.control, "--json")
	if err != nil {
		return watch.Configured{Err: err}
	}
	e, err := parseConfigured(out)
	if err != nil {
		return watch.Configured{Err: fmt.Errorf("read what condorconf says: %w", err)}
	}
	return e
}

// parseConfigured decodes condorconf write --json.
func parseConfigured(out []byte) (watch.Configured, error) {
	var answer struct {
		Reload, Restart, Start, Stop []string
		Renew, Waiting               string
		Offer                        json.RawMessage
	}
	if err := json.Unmarshal(out, &answer); err != nil {
		return watch.Configured{}, err
	}
	e := watch.Configured{Units: watch.Units{Stop: answer.Stop, Reload: answer.Reload, Restart: answer.Restart, Start: answer.Start},
		Waiting: answer.Waiting, Offer: compact(answer.Offer)}
	if answer.Renew != "" {
		var err error
		if e.Renew, err = time.Parse(time.RFC3339, answer.Renew); err != nil {
			return watch.Configured{}, err
		}
	}
	return e, nil
}

// compact returns JSON without blanks.
func compact(text json.RawMessage) string {
	var b bytes.Buffer
	json.Compact(&b, text) // it has been decoded
	return b.String()
}

// manage has systemd do u, and waits for each unit.
func manage(ctx context.Context, u watch.Units) error {
	conn, err := systemd.NewWithContext(ctx)
	if err != nil {
		return fmt.Errorf("reach systemd: %w", err)
	}
	defer conn.Close()
	type call = func(context.Context, string, string, chan<- string) (int, error)
	for _, step := range []struct {
		verb  string
		units []string
		call  call
	}{
		{"stop", u.Stop, conn.StopUnitContext},
		{"reload", u.Reload, conn.ReloadOrRestartUnitContext},
		{"restart", u.Restart, conn.RestartUnitContext},
		{"start", u.Start, conn.StartUnitContext},
	} {
		for _, name := range step.units {
			err := manageOne(ctx, name, step.call)
			if step.verb == "stop" && isNoUnit(err) {
				continue // what the image does not have does not run
			}
			if err != nil {
				return fmt.Errorf("%s %s: %w", step.verb, name, err)
			}
		}
	}
	return nil
}

// manageOne starts one of systemd's jobs and waits for its end.
func manageOne(ctx context.Context, name string, call func(context.Context, string, string, chan<- string) (int, error)) error {
	ctx, cancel := context.WithTimeout(ctx, unitLimit)
	defer cancel()
	done := make(chan string, 1)
	if _, err := call(ctx, name, "replace", done); err != nil {
		return err
	}
	select {
	case result := <-done:
		if result != "done" {
			return fmt.Errorf("%s: journalctl -u %s says why", result, name)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("not done within %v: journalctl -u %s says why", unitLimit, name)
	}
}

// isNoUnit says whether err is systemd's answer about a unit it does not know.
func isNoUnit(err error) bool {
	var e dbus.Error
	return errors.As(err, &e) && e.Name == "org.freedesktop.systemd1.NoSuchUnit"
}

// probe returns nil when the role's units run, all of HTCondor's daemons are up
// and its collector answers, or the pool's knows this machine.
func probe(ctx context.Context, p watch.Probe) error {
	conn, err := systemd.NewWithContext(ctx)
	if err != nil {
		return fmt.Errorf("reach systemd: %w", err)
	}
	defer conn.Close()
	for _, name := range p.Units {
		property, err := conn.GetUnitPropertyContext(ctx, name, "ActiveState")
		if err != nil {
			return fmt.Errorf("ask for %s: %w", name, err)
		}
		if state, _ := property.Value.Value().(string); state != "active" {
			return fmt.Errorf("%s is %s: journalctl -u %s says why", name, state, name)
		}
	}
	// HTCondor's tools are slow to start, above all on a machine that is
	// starting: the collector is asked only when it can answer.
	if slices.Contains(p.Units, "condor.service") {
		if err := probeDaemons(ctx); err != nil {
			return err
		}
	}
	switch {
	case p.Collector.IsValid():
		return probeCollector(ctx, p.Collector)
	case p.Machine != "":
		return probePool(ctx, p.Machine)
	}
	return nil
}

// probePool returns nil when a collector of the pool knows the machine, whose
// name the control socket gave.
func probePool(ctx context.Context, machine string) error {
	ctx, cancel := context.WithTimeout(ctx, queryLimit)
	defer cancel()
	out, err := sysrun.Output(ctx, "condor_status", "-constraint", fmt.Sprintf("Machine =?= %q", machine), "-autoformat", "Machine")
	if err != nil {
		return fmt.Errorf("ask the pool: %w", err)
	}
	if len(strings.TrimSpace(string(out))) == 0 {
		return errors.New("the pool does not know this machine yet")
	}
	return nil
}

// probeDaemons returns nil when HTCondor's master says that every daemon of the
// role is up: one that is still starting takes no job and runs none.
func probeDaemons(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, queryLimit)
	defer cancel()
	out, err := sysrun.Output(ctx, "condor_who", "-quick")
	if err != nil {
		return fmt.Errorf("ask HTCondor's master: %w", err)
	}
	if !strings.Contains(string(out), "IsReady = true") {
		return errors.New("HTCondor is still starting: condor_who -quick says what")
	}
	return nil
}

// probeCollector returns nil when the collector at addr answers a query. The
// port alone says little: it is open before the collector behind it runs.
func probeCollector(ctx context.Context, addr netip.AddrPort) error {
	d := net.Dialer{Timeout: 2 * time.Second}
	c, err := d.DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return fmt.Errorf("HTCondor does not answer: %w", err)
	}
	c.Close()
	ctx, cancel := context.WithTimeout(ctx, queryLimit)
	defer cancel()
	out, err := sysrun.Output(ctx, "condor_status", "-collector", "-autoformat", "Name")
	if err != nil {
		return fmt.Errorf("ask HTCondor's collector: %w", err)
	}
	if len(strings.TrimSpace(string(out))) == 0 {
		return errors.New("HTCondor's collector does not know itself yet")
	}
	return nil
}

// followMedia sends an event when a disk was put in or taken out since the
// boot's apply looked.
func (w *watcher) followMedia(ctx context.Context) {
	seen, err := os.ReadFile(w.path(mediaPath))
	last := string(seen)
	if err != nil {
		last = source.Media(ctx, w.root)
	}
	tick := time.NewTicker(mediaEvery)
	defer tick.Stop()
	for {
		if now := source.Media(ctx, w.root); now != last {
			w.log.Debug("media changed", "media", now)
			last = now
			w.send(ctx, watch.MediaChanged{})
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// followNode sends what overlayd says of itself, over its restarts.
func (w *watcher) followNode(ctx context.Context) {
	client := control.Dial(w.control)
	for session := 1; ctx.Err() == nil; session++ {
		for s, err := range client.Watch(ctx) {
			if err != nil {
				w.send(ctx, watch.Node{Session: session, Detail: "waiting for overlayd"})
				break
			}
			w.send(ctx, nodeEvent(session, s))
		}
		select {
		case <-ctx.Done():
		case <-time.After(controlEvery):
		}
	}
}

// collectors is the record by which masters say that their collector answers.
// The store takes it from a master alone, and forgets it with its lifetime when
// the machine dies.
var collectors = control.RecordName{Kind: "service", Name: "collector"}

// offer publishes what this master says of itself, or takes it back.
func (w *watcher) offer(ctx context.Context, text string) error {
	ctx, cancel := context.WithTimeout(ctx, queryLimit)
	defer cancel()
	client := control.Dial(w.control)
	if text == "" {
		_, err := client.Withdraw(ctx, collectors)
		return err
	}
	_, err := client.Put(ctx, collectors, []byte(text), offerLife)
	return err
}

// followOffers sends an event when masters say other things of themselves than
// before, or one says nothing any more.
func (w *watcher) followOffers(ctx context.Context) {
	client := control.Dial(w.control)
	last := ""
	for ctx.Err() == nil {
		asking, cancel := context.WithTimeout(ctx, queryLimit)
		records, err := client.Get(asking, collectors)
		cancel()
		if err == nil { // else nothing is known
			var all []string
			for _, r := range records {
				all = append(all, r.Owner+" "+string(r.Value))
			}
			slices.Sort(all)
			if text := strings.Join(all, "\n"); text != last {
				last = text
				w.send(ctx, watch.Offers{Text: text})
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(offersEvery):
		}
	}
}

// nodeEvent takes from s what the machine is configured by.
func nodeEvent(session int, s control.Status) watch.Node {
	n := watch.Node{Session: session, Detail: s.Reason}
	if s.State != control.StateRunning {
		if n.Detail == "" {
			n.Detail = "overlayd is " + string(s.State)
		}
		return n
	}
	n.Address, n.Name = s.Address.Addr(), s.Name
	var masters []string
	for _, m := range s.Masters {
		masters = append(masters, m.Name+"="+m.Address.String())
	}
	n.Masters = strings.Join(masters, " ")
	return n
}
