package main

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"gridappliance/builder/base"
	"gridappliance/internal/qemu"
	"gridappliance/internal/sysrun"
)

const bootLimit = 10 * time.Minute

var (
	ready = regexp.MustCompile(`grid-appliance: READY `)
	login = regexp.MustCompile(`login: `)
)

// Packages of the stock system: what serves the same purpose as the
// appliance, installed as Debian installs it.
const (
	stockPackages = "systemd-sysv,dbus,udev,kmod,iproute2,openssh-server,autofs,nfs-common,condor,linux-image-amd64,initramfs-tools,zstd"
	cloudPackages = "cloud-init,netplan.io"
)

// boots starts the three machines one after the other, in every round.
func (b *bench) boots(ctx context.Context) error {
	disk, err := b.image("qcow2", "*.qcow2")
	if err != nil {
		return err
	}
	stock, err := b.install(ctx, "stock", stockPackages)
	if err != nil {
		return err
	}
	cloud, err := b.install(ctx, "cloud", stockPackages+","+cloudPackages)
	if err != nil {
		return err
	}
	if cloud.CDROM, err = b.seed(ctx); err != nil {
		return err
	}
	nic := []qemu.NIC{{}}
	machines := []struct {
		row   *row
		until *regexp.Regexp
		qemu.Config
	}{
		{b.table.add(rowStock, "s", 0, ""), login, stock},
		{b.table.add(rowCloud, "s", 0, ""), login, cloud},
		{b.table.add(rowOurs, "s", 0, "stock Debian"), ready, qemu.Config{Disk: disk}},
	}
	for i := range b.rounds {
		for _, m := range machines {
			m.NICs = nic
			b.say("round %d: %s", i+1, m.row.name)
			took, err := boot(ctx, m.Config, m.until)
			if err != nil {
				return err
			}
			m.row.value(took.Seconds())
		}
	}
	machines[2].row.limit = machines[0].row.median()
	return nil
}

// The rows that the picture shows.
const (
	rowStock = "stock Debian, power-on to login"
	rowCloud = "stock Debian with cloud-init, to login"
	rowOurs  = "grid appliance, power-on to READY"
)

// boot starts a machine and returns how long it took to say what is awaited.
func boot(ctx context.Context, c qemu.Config, until *regexp.Regexp) (time.Duration, error) {
	start := time.Now()
	m, err := qemu.Start(ctx, c)
	if err != nil {
		return 0, err
	}
	defer m.Close()
	_, err = m.Console.WaitFor(until, bootLimit)
	return time.Since(start), err
}

// install makes a machine of Debian's packages: an ext4 root, which QEMU's own
// boot loader starts.
func (b *bench) install(ctx context.Context, name, packages string) (qemu.Config, error) {
	b.say("installing %s", name)
	root := filepath.Join(b.work, name)
	sources, err := base.SourcesList(ctx, b.mirror, base.DefaultSuite)
	if err != nil {
		return qemu.Config{}, err
	}
	list := root + ".list"
	if err := os.WriteFile(list, []byte(sources), 0o644); err != nil {
		return qemu.Config{}, err
	}
	if _, err := sysrun.Output(ctx, "mmdebstrap", "--mode=root", "--variant=apt", "--include="+packages,
		"--customize-hook=chroot \"$1\" passwd -d root", base.DefaultSuite, root, list); err != nil {
		return qemu.Config{}, err
	}
	c := qemu.Config{Disk: root + ".raw", CommandLine: "root=/dev/vda rw quiet console=ttyS0"}
	if err := os.WriteFile(c.Disk, nil, 0o644); err != nil {
		return c, err
	}
	if err := os.Truncate(c.Disk, 3<<30); err != nil {
		return c, err
	}
	if _, err := sysrun.Output(ctx, "mke2fs", "-q", "-t", "ext4", "-d", root, c.Disk); err != nil {
		return c, err
	}
	for pattern, to := range map[string]*string{"vmlinuz-*": &c.Kernel, "initrd.img-*": &c.Initrd} {
		found, err := filepath.Glob(filepath.Join(root, "boot", pattern))
		if err != nil || len(found) != 1 {
			return c, &os.PathError{Op: "find kernel", Path: filepath.Join(root, "boot", pattern), Err: os.ErrNotExist}
		}
		*to = found[0]
	}
	return c, nil
}

// seed makes the disc that cloud-init takes its configuration from.
func (b *bench) seed(ctx context.Context) (string, error) {
	dir := filepath.Join(b.work, "seed")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	files := map[string][]string{
		"meta-data": {"instance-id: bench", "local-hostname: bench"},
		"user-data": {"#cloud-config", "users:", "  - name: researcher", "write_files:", "  - path: /etc/grid", "    content: client"},
	}
	for name, lines := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
			return "", err
		}
	}
	iso := dir + ".iso"
	_, err := sysrun.Output(ctx, "genisoimage", "-quiet", "-V", "cidata", "-J", "-r", "-o", iso, dir)
	return iso, err
}
