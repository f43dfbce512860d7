package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gridappliance/firstboot/apply"
	"gridappliance/firstboot/plan"
	"gridappliance/firstboot/source"
	"gridappliance/internal/sysrun"
)

// machine is what firstboot works on: this machine, or a tree of files.
type machine struct {
	root string // "/" on this machine
}

// live says whether the machine is this one, with a clock and services, rather
// than a tree.
func (m *machine) live() bool { return filepath.Clean(m.root) == "/" }

// path returns where a path relative to the root stands.
func (m *machine) path(name string) string { return filepath.Join(m.root, name) }

// text returns a small file's trimmed contents, "" when it cannot be read.
func (m *machine) text(name string) string {
	b, _ := os.ReadFile(m.path(name))
	return strings.TrimSpace(string(b))
}

const (
	modprobeLimit = 30 * time.Second // the floppy driver resets its controller and gives up in seconds
	settleLimit   = 20 * time.Second // devices that come later are found by watch
	programLimit  = 10 * time.Second
)

// sources returns where to look for a floppy.
func (m *machine) sources() source.Machine {
	s := source.Machine{Root: m.root, AcceptedOnly: m.own()}
	if !m.live() {
		return s
	}
	s.Modprobe = func(ctx context.Context, module string) error {
		return quick(ctx, modprobeLimit, "modprobe", module)
	}
	s.Settle = func(ctx context.Context) error {
		// Not settled in time is not wrong: what is there is looked at.
		quick(ctx, settleLimit+time.Second, "udevadm", "settle", fmt.Sprintf("--timeout=%d", int(settleLimit.Seconds())))
		return nil
	}
	if strings.HasPrefix(m.text("sys/class/dmi/id/sys_vendor"), "VMware") {
		s.GuestInfo = guestInfo
	}
	return s
}

// quick runs a program that should end within limit.
func quick(ctx context.Context, limit time.Duration, name string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	path, err := sysrun.Find(name)
	if err != nil {
		return err
	}
	_, err = sysrun.Output(ctx, path, args...)
	return err
}

// guestInfo returns the guest variable name and overwrites it, so that later
// programs of this machine cannot read it (TRUST.md, "On the machine").
func guestInfo(ctx context.Context, name string) ([]byte, error) {
	rpc, err := sysrun.Find("vmware-rpctool")
	if err != nil {
		return nil, nil // an image without VMware's tools has no guestinfo
	}
	ctx, cancel := context.WithTimeout(ctx, programLimit)
	defer cancel()
	value, err := sysrun.Output(ctx, rpc, "info-get "+name)
	if err != nil {
		return nil, nil // "No value found"
	}
	if _, err := sysrun.Output(ctx, rpc, "info-set "+name+" taken"); err != nil {
		return nil, fmt.Errorf("overwrite %s: %w", name, err)
	}
	if v := strings.TrimSpace(string(value)); v != "" && v != "taken" {
		return []byte(v), nil
	}
	return nil, nil
}

// facts returns what a plan needs to know, given the floppy's time zone.
func (m *machine) facts(timezone string) (plan.Facts, error) {
	f := plan.Facts{Accounts: map[string]int{}}
	passwd, err := os.ReadFile(m.path("etc/passwd"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	for line := range strings.Lines(string(passwd)) {
		fields := strings.Split(line, ":")
		if len(fields) < 3 {
			continue
		}
		if uid, err := strconv.Atoi(fields[2]); err == nil {
			f.Accounts[fields[0]] = uid
		}
	}
	info, err := os.Stat(m.path(filepath.Join("usr/share/zoneinfo", filepath.Clean("/"+timezone))))
	f.TimezoneKnown = err == nil && info.Mode().IsRegular()
	if f.Modules, err = m.modules(); err != nil || !m.own() {
		return f, err
	}
	f.Own, err = m.ownFacts()
	return f, err
}

// modules returns the SHA-256 of every module in the image: the list that the
// builder leaves in the glue layer.
func (m *machine) modules() ([]string, error) {
	text, err := os.ReadFile(m.path("usr/lib/grid/modules.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []struct {
		SHA256 string `json:"sha256"`
	}
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("read the image's list of modules: %w", err)
	}
	var sums []string
	for _, l := range list {
		sums = append(sums, l.SHA256)
	}
	return sums, nil
}

// instance returns what tells this machine from one with a copy of its disk.
func (m *machine) instance() apply.Instance {
	i := apply.Instance{UUID: strings.ToLower(m.text("sys/class/dmi/id/product_uuid"))}
	// QEMU shows its generation ID in fw_cfg: the GUID stands at offset 40 of
	// the table (QEMU docs/specs/vmgenid).
	if b, err := os.ReadFile(m.path("sys/firmware/qemu_fw_cfg/by_name/etc/vmgenid_guid/raw")); err == nil && len(b) >= 56 {
		i.Generation = fmt.Sprintf("%x", b[40:56])
	}
	return i
}

// tree opens the machine's root for changes and waits until no other
// firstboot changes it.
func (m *machine) tree() (*apply.Tree, error) {
	t, err := apply.Open(m.root)
	if err != nil {
		return nil, err
	}
	err = t.Lock()
	if err == nil && m.own() {
		err = t.LockAccounts()
	}
	if err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

// freshIdentity makes an identity from the kernel's entropy.
func freshIdentity() (apply.Identity, error) { return apply.NewIdentity(rand.Reader) }

// buildTime is when the image was made, as RFC 3339.
const buildTime = "usr/lib/grid/build-time"

// now returns the time that is safe to judge certificates by: the clock, but
// never below the image's build time or the newest signed object that this
// machine accepted.
func (m *machine) now(stamp *apply.Stamp) time.Time {
	now := time.Now()
	if t, err := time.Parse(time.RFC3339, m.text(buildTime)); err == nil {
		now = later(now, t)
	}
	if stamp != nil {
		now = later(now, stamp.Newest)
	}
	return now
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// raiseClock sets the system's clock to t if it is below it. The clock of an
// own machine is its owner's.
func (m *machine) raiseClock(t time.Time) error {
	if !m.live() || m.own() || !time.Now().Before(t) {
		return nil
	}
	return setClock(t)
}

// setClock sets the system's clock.
func setClock(t time.Time) error {
	ts := unix.NsecToTimespec(t.UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		return fmt.Errorf("set clock to %s: %w", t.Format(time.RFC3339), err)
	}
	return nil
}
