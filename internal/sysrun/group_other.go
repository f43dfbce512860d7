//go:build !unix

package sysrun

import "os/exec"

// Without process groups only the program itself is ended.
func ownGroup(*exec.Cmd)            {}
func terminate(cmd *exec.Cmd) error { return cmd.Process.Kill() }
func kill(*exec.Cmd)                {}
