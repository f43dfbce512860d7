package netlab

import (
	"os"
	"testing"

	"gridappliance/internal/need"
)

func TestDebianRoot(t *testing.T) {
	root := Debian(t, need.Container(t), "systemd-sysv", "dbus", "udev", "systemd-resolved", "libnss-resolve", "libnss-myhostname", "libpam-systemd", "iproute2", "procps", "iputils-ping",
		"condor", "autofs", "nfs-common", "nfs-kernel-server", "nftables")
	if _, err := os.Stat(root + "/usr/sbin/condor_master"); err != nil {
		t.Error(err)
	}
}
