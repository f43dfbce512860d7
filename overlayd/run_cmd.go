package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"gridappliance/floppy"
	"gridappliance/internal/diag"
	"gridappliance/overlayd/control"
	"gridappliance/overlayd/device"
	"gridappliance/overlayd/node"
	"gridappliance/overlayd/transport"
	"gridappliance/overlayd/underlay"
)

// maxFloppy bounds what is read as a floppy, in bytes: an image in base64.
const maxFloppy = 2 * floppy.Size

type runOptions struct {
	floppy, state, control, listen, listenTCP, device, machineID string

	lan, mapPort bool
}

func newRunCommand() *cobra.Command {
	var o runOptions
	cmd := &cobra.Command{
		Use:   "run --floppy FILE",
		Short: "run the node until it is told to stop",
		Long: `run starts the node that the floppy describes and runs it in the foreground
until SIGTERM or SIGINT. It needs CAP_NET_ADMIN (for the device) and
/dev/net/tun, not root. Under systemd it says READY=1 once the control socket
answers: a node without an address yet is ready too.

The device, its address and its route stay when the node stops, so that
connections live through a restart; "ip link delete tapipop" removes them.`,
		Example: `  overlayd run --floppy master-1.img
  overlayd run --floppy master-1.img --state /tmp/node --control /tmp/node.sock`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runNode(cmd.Context(), o, newLogger(cmd.ErrOrStderr()))
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.floppy, "floppy", "", "the machine's floppy: an image, zipped or not")
	f.StringVar(&o.state, "state", "/var/lib/overlayd", "folder for the node's key")
	f.StringVar(&o.control, "control", control.SocketPath, "control socket")
	f.StringVar(&o.listen, "listen", ":4242", "UDP endpoint on the underlay; without an address, all of them")
	f.StringVar(&o.listenTCP, "listen-tcp", "", "TCP endpoint for peers whose network drops UDP, such as :443 (default none)")
	f.BoolVar(&o.lan, "lan", true, "look for peers on the LAN by multicast")
	f.BoolVar(&o.mapPort, "map-port", true, "ask the router to map the UDP port: PCP, NAT-PMP, UPnP")
	f.StringVar(&o.device, "interface", "", "name of the network device (default: the floppy's)")
	f.StringVar(&o.machineID, "machine-id", "/etc/machine-id", "file that tells this machine from its copies")
	return cmd
}

// runNode makes a node of o and runs it.
func runNode(ctx context.Context, o runOptions, log *slog.Logger) error {
	if o.floppy == "" {
		return diag.UsageError{Err: errors.New("run: --floppy FILE is missing")}
	}
	listen, err := parseEndpoint("--listen", o.listen)
	if err != nil {
		return diag.UsageError{Err: err}
	}
	var listenTCP netip.AddrPort
	if o.listenTCP != "" {
		if listenTCP, err = parseEndpoint("--listen-tcp", o.listenTCP); err != nil {
			return diag.UsageError{Err: err}
		}
	}
	f, err := readFloppy(o.floppy, time.Now())
	if err != nil {
		return err
	}
	instance, err := machineInstance(o.machineID)
	if err != nil {
		return err
	}
	watchdog, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return fmt.Errorf("read the watchdog's time from the environment: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(o.control), 0o750); err != nil {
		return err
	}
	socket, err := control.Listen(o.control)
	if err != nil {
		return err
	}
	n, err := node.New(node.Config{
		Floppy: f, StateDir: o.state, Control: socket, Listen: listen, Device: o.device,
		Instance: instance, Version: version, Log: log,
		Host: device.Linux{}, Underlay: transport.UDP{}, Clock: node.BootTime, Generation: node.WatchGeneration,
		Look: underlay.Look, Watch: underlay.Watch,
		LAN: o.lan, TCP: true, ListenTCP: listenTCP, MapPort: o.mapPort,
		Names: true, Notify: notify, Watchdog: watchdog,
	})
	if err != nil {
		socket.Close()
		return err
	}
	return n.Run(ctx)
}

// notify tells systemd, if it started us. That it cannot be told is no reason
// to stop.
func notify(state string) { daemon.SdNotify(false, state) }

// readFloppy reads and checks the floppy; what is wrong with it is a
// diag.List.
func readFloppy(path string, now time.Time) (*floppy.Floppy, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxFloppy))
	if err != nil {
		return nil, err
	}
	image, err := floppy.Unwrap(data)
	if err != nil {
		return nil, err
	}
	return floppy.CheckImage(path, image, now)
}

// parseEndpoint reads ":4242" or "192.0.2.1:4242".
func parseEndpoint(flag, text string) (netip.AddrPort, error) {
	if strings.HasPrefix(text, ":") {
		text = "[::]" + text
	}
	endpoint, err := netip.ParseAddrPort(text)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%s %q: want :PORT or ADDRESS:PORT", flag, text)
	}
	return endpoint, nil
}

// machineInstance names this machine instance without giving machine-id away,
// which machine-id(5) asks for: HMAC-SHA256 under it, 128 bits of it.
func machineInstance(path string) (string, error) {
	id, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read machine instance: %w", err)
	}
	id = bytes.TrimSpace(id)
	if raw, err := hex.DecodeString(string(id)); err != nil || len(raw) != 16 {
		return "", fmt.Errorf("read machine instance %s: %w", path, errors.New("want 32 hex digits; has this machine finished its first boot?"))
	}
	mac := hmac.New(sha256.New, id)
	mac.Write([]byte("grid-appliance overlayd"))
	return hex.EncodeToString(mac.Sum(nil)[:16]), nil
}

// newLogger writes text for a person, and JSON where systemd reads it, which
// puts the time to each line itself (systemd.exec(5), JOURNAL_STREAM).
func newLogger(w io.Writer) *slog.Logger {
	if os.Getenv("JOURNAL_STREAM") == "" {
		return slog.New(slog.NewTextHandler(w, nil))
	}
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))
}
