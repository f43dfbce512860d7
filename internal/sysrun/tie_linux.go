package sysrun

import (
	"os/exec"
	"syscall"
)

// tie has the kernel kill the program when the thread that starts it ends
// (prctl(2), PR_SET_PDEATHSIG). It comes after ownGroup.
func tie(cmd *exec.Cmd) { cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL }
