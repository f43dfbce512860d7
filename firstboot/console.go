package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"

	"gridappliance/internal/diag"
)

// consoles are the local terminals of the image, as far as the machine has
// them.
var consoles = []string{"dev/tty1", "dev/ttyS0", "dev/hvc0"}

// say writes lines on every console. A terminal that takes nothing (a serial
// port without a reader) is left alone: the boot never waits for one.
// The terminals of an own machine are its owner's.
func (m *machine) say(lines ...string) {
	if !m.live() || m.own() {
		return
	}
	text := "\r\n" + strings.Join(lines, "\r\n") + "\r\n"
	for _, name := range consoles {
		f, err := os.OpenFile(m.path(name), os.O_WRONLY|syscall.O_NOCTTY|syscall.O_NONBLOCK, 0)
		if err != nil {
			continue
		}
		f.Write([]byte(text))
		f.Close()
	}
}

// prefix begins every line of ours on a console.
const prefix = "grid-appliance: "

// oneLine returns err in one line that a person can act on: the first problem,
// and how many more there are.
func oneLine(err error) string {
	lines := strings.Split(strings.TrimSpace(err.Error()), "\n")
	if len(lines) > 1 {
		return fmt.Sprintf("%s (and %d more: firstboot check)", lines[0], len(lines)-1)
	}
	return lines[0]
}

// problemLines returns every problem in err, one a line.
func problemLines(err error) []string {
	var lines []string
	for _, p := range diag.Of(err) {
		lines = append(lines, p.Error())
	}
	return lines
}
