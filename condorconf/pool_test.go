package main

import (
	"testing"
	"time"

	"gridappliance/floppy"
)

func TestStandaloneRunsAJob(t *testing.T) {
	l := newLab(t, 1)
	m := l.machine("standalone", nil, floppy.RoleStandalone)
	m.condorconf("write")
	m.start()
	m.until(30*time.Second, "slot1@", "condor_status")
	t.Log(m.Run("ss", "-lntup"))
	t.Log(m.submit("echo done as; id -un"))
	t.Log(m.logs())
}
