//go:build unix

package sysrun

import (
	"os/exec"
	"syscall"
)

// ownGroup starts the program in a process group of its own.
func ownGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// terminate asks the whole group to end, kill ends what is left of it.
func terminate(cmd *exec.Cmd) error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
func kill(cmd *exec.Cmd)            { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
