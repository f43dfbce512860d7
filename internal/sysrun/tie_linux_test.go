package sysrun

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestTied kills a process that runs a tied program and waits for the program
// to be gone as well.
func TestTied(t *testing.T) {
	if os.Getenv("SYSRUN_TIED") != "" { // the process that is killed
		Run(context.Background(), Command{Name: "sh", Args: []string{"-c", "echo $$; exec sleep 60"}, Stdout: os.Stdout, Tied: true})
		return
	}
	parent := exec.Command(os.Args[0], "-test.run=^TestTied$")
	parent.Env = append(os.Environ(), "SYSRUN_TIED=1")
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	pid, convErr := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || convErr != nil {
		t.Fatalf("pid %q: %v", line, err)
	}
	parent.Process.Kill()
	parent.Wait()
	for deadline := time.Now().Add(10 * time.Second); alive(pid); {
		if time.Now().After(deadline) {
			syscall.Kill(pid, syscall.SIGKILL)
			t.Fatal("the program outlived the process it was tied to")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// alive says whether pid runs: it exists and is not waiting to be collected.
func alive(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(after, "Z")
}
