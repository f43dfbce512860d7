package guard

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gridappliance/overlayd/control"
)

// overlay is a virtual network in which a few addresses are held.
type overlay map[netip.Addr]error

func (o overlay) Status(context.Context) (control.Status, error) {
	return control.Status{Barred: []netip.Addr{netip.MustParseAddr("10.250.0.19"), netip.MustParseAddr("fd00::19")}, Name: "C250000007.ipop", Address: netip.MustParsePrefix("10.250.0.7/16"), Masters: []control.Master{
		{Name: "C250000002.ipop", Address: netip.MustParseAddr("10.250.0.2")},
		{Name: "C250000003.ipop", Address: netip.MustParseAddr("10.250.0.3")},
	}}, nil
}

func (o overlay) Whois(_ context.Context, addr netip.Addr) (control.Whois, error) {
	err, held := o[addr]
	if !held {
		err = control.ErrUnknown
	}
	return control.Whois{Address: addr, Name: control.HostName(addr), User: "alice", Group: "physics", Role: "client"}, err
}

func (o overlay) Ping(_ context.Context, who control.Target) (control.Pong, error) {
	if err, held := o[who.Address]; !held || err != nil {
		return control.Pong{}, control.ErrNoAnswer
	}
	return control.Pong{Path: control.PathRelay, RTT: control.Millis(48 * time.Millisecond)}, nil
}

var held = overlay{
	netip.MustParseAddr("10.250.0.3"):  nil,
	netip.MustParseAddr("10.250.0.18"): nil,
	netip.MustParseAddr("10.250.0.19"): fmt.Errorf("as it says: %w", control.ErrBarred),
}

func TestParseStarter(t *testing.T) {
	for line, want := range map[string]string{
		"condor_starter -f -local-name slot_type_1 -a slot1_1 C250000018.ipop": "slot1_1 C250000018.ipop",
		"condor_starter -f -a slot3 10.250.0.18":                               "slot3 10.250.0.18",
		"condor_starter -f -a slot3":                                           "",
		"condor_starter -f -a slot3 C250000018.ipop more":                      "",
		"condor_starter": "",
	} {
		s, err := parseStarter(strings.Fields(line))
		if got := strings.TrimSpace(s.slot + " " + s.host); got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v, want %q", line, got, err, want)
		}
	}
}

// Who is no child of a starter learns of nobody.
func TestService(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(socket, nil, 0o600); err != nil { // left by one before
		t.Fatal(err)
	}
	ln, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o666 {
		t.Errorf("the socket is %v, %v; every account must reach it", info.Mode(), err)
	}
	s := Service{Overlay: held, Log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx, ln) }()

	v, err := Ask(t.Context(), socket)
	if err != nil || v.Refused != "" || !strings.Contains(v.Unknown, "not a condor_starter") {
		t.Errorf("asked by a test the guard says %+v, %v", v, err)
	}
	view, err := AskView(t.Context(), socket)
	want := View{Path: control.PathRelay, RTT: control.Millis(48 * time.Millisecond), Barred: []string{"C250000019.ipop"}}
	if diff := cmp.Diff(want, view); err != nil || diff != "" {
		t.Errorf("view: %v (-want +got):\n%s", err, diff)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := AskView(t.Context(), socket); err == nil {
		t.Error("answered after its end")
	}
}

func TestWhoIsAClaimer(t *testing.T) {
	s := Service{Overlay: held}
	self, _ := held.Status(t.Context())
	for host, want := range map[string]string{
		"C250000018.ipop": "alice", "10.250.0.18": "alice", "C250000099.ipop": "nobody known holds it",
		"C250000019.ipop": "its certificate is refused", "elsewhere.example": "want C, nine digits",
	} {
		who, err := s.claimer(t.Context(), starter{host: host}, self)
		if got := fmt.Sprint(who.User, err); !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %q", host, got, want)
		}
	}
}
