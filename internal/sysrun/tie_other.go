//go:build !linux

package sysrun

import "os/exec"

// tie does nothing where the kernel cannot be asked to.
func tie(*exec.Cmd) {}
