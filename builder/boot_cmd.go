package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gridappliance/internal/diag"
	"gridappliance/internal/qemu"
)

// Words that --until knows beside regular expressions.
var untilWords = map[string]string{
	"READY": `grid-appliance: READY [^\r\n]*[\r\n]`,
	"login": `(login: |[$#] )(\x1b\[[0-9;?]*[a-zA-Z])*$`,
}

// shutdownLimit is how long a machine whose disk is kept may take to power off.
const shutdownLimit = 2 * time.Minute

func newBootCommand() *cobra.Command {
	var o bootOptions
	cmd := &cobra.Command{
		Use:   "boot IMAGE",
		Short: "boot an image under QEMU and show its console",
		Long: `boot starts a machine from an image (raw, qcow2, VMDK, VDI) and shows its
serial console. Under KVM where a guest can really be started with it, else
emulated.

With --until it waits for a word on the console, then ends the machine:
READY is the line a grid appliance writes once it works, login a prompt, and
anything else a regular expression. Without, the console is yours; Ctrl-] ends
the machine.

The image is not changed unless --persistent is given. The machine has a
floppy drive, one network card behind NAT, a virtio disk and no screen.

EXIT STATUS is 1 when the word did not come in time; the console's last lines
are on standard error then.`,
		Example: `  builder boot out/grid.qcow2 --floppy alice.img --until READY
  builder boot out/grid-private.raw --firmware uefi --until READY --timeout 10m --json
  builder boot out/grid-private.qcow2`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.FixedCompletions([]string{"raw", "qcow2", "vmdk", "vdi"}, cobra.ShellCompDirectiveFilterFileExt),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.run(cmd.Context(), args[0], cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.floppy, "floppy", "", "floppy image in the drive")
	flags.StringVar(&o.firmware, "firmware", string(qemu.BIOS), "bios or uefi")
	flags.StringVar(&o.until, "until", "", "wait for READY, login or a regular expression")
	flags.DurationVar(&o.timeout, "timeout", 5*time.Minute, "how long to wait for --until")
	flags.IntVar(&o.memory, "memory", 1024, "memory in MiB")
	flags.StringVar(&o.uuid, "uuid", "", "the machine's SMBIOS UUID")
	flags.BoolVar(&o.persistent, "persistent", false, "write to the image")
	flags.BoolVar(&o.json, "json", false, "write the result as JSON, the console to standard error")
	cmd.MarkFlagFilename("floppy", "img", "flp", "ima")
	cmd.RegisterFlagCompletionFunc("firmware", cobra.FixedCompletions([]string{"bios", "uefi"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.RegisterFlagCompletionFunc("until", cobra.FixedCompletions([]string{"READY", "login"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

type bootOptions struct {
	floppy, firmware, until, uuid string
	timeout                       time.Duration
	memory                        int
	persistent, json              bool
}

type bootReport struct {
	Image       string  `json:"image"`
	Accelerator string  `json:"accelerator"`
	Firmware    string  `json:"firmware"`
	Line        string  `json:"line"`    // what --until matched
	Seconds     float64 `json:"seconds"` // from power-on
}

// pattern returns what --until asks for, nil for nothing.
func (o *bootOptions) pattern() (*regexp.Regexp, error) {
	if o.until == "" {
		return nil, nil
	}
	text, ok := untilWords[o.until]
	if !ok {
		text = o.until
	}
	re, err := regexp.Compile(text)
	if err != nil {
		return nil, diag.UsageError{Err: fmt.Errorf("--until: %w", err)}
	}
	return re, nil
}

func (o *bootOptions) run(ctx context.Context, image string, stdin io.Reader, stdout, stderr io.Writer) error {
	until, err := o.pattern()
	if err != nil {
		return err
	}
	if o.firmware != string(qemu.BIOS) && o.firmware != string(qemu.UEFI) {
		return diag.UsageError{Err: fmt.Errorf("--firmware: %q is neither bios nor uefi", o.firmware)}
	}
	if until == nil && o.json {
		return diag.UsageError{Err: errors.New("--json needs --until")}
	}
	console := stdout
	if o.json {
		console = stderr
	}
	if o.floppy != "" {
		if _, err := os.Stat(o.floppy); err != nil {
			return fmt.Errorf("boot %s: %w", image, err)
		}
	}
	m, err := qemu.Start(ctx, qemu.Config{
		Disk: image, Persistent: o.persistent, Floppy: o.floppy, Firmware: qemu.Firmware(o.firmware),
		Memory: o.memory, UUID: o.uuid, NICs: []qemu.NIC{{Open: true}}, Live: console,
	})
	if err != nil {
		return fmt.Errorf("boot %s: %w", image, err)
	}
	defer m.Close()
	fmt.Fprintf(stderr, "builder: booting %s (%s, %s)\n", image, m.Accelerator(), o.firmware)
	if until == nil {
		return interact(m, stdin, stderr)
	}
	start := time.Now()
	found, err := m.Console.WaitFor(until, o.timeout)
	if err != nil {
		return fmt.Errorf("boot %s: %w", image, err)
	}
	report := bootReport{Image: image, Accelerator: string(m.Accelerator()), Firmware: o.firmware,
		Line: strings.TrimSpace(qemu.Plain(found[0])), Seconds: time.Since(start).Seconds()}
	if o.persistent {
		if err := m.Shutdown(shutdownLimit); err != nil {
			return fmt.Errorf("boot %s: %w", image, err)
		}
	}
	if o.json {
		return writeJSON(stdout, report)
	}
	fmt.Fprintf(stderr, "\nbuilder: %s after %.1f s\n", o.until, report.Seconds)
	return nil
}

// endKey is Ctrl-], which ends an interactive machine.
const endKey = 0x1d

// interact connects stdin with the console until the machine ends or endKey is
// typed. When stdin ends, the machine goes on.
func interact(m *qemu.Machine, stdin io.Reader, stderr io.Writer) error {
	if f, ok := stdin.(*os.File); ok {
		restore, err := rawTerminal(f)
		if err != nil {
			return err
		}
		defer restore()
	}
	fmt.Fprint(stderr, "builder: Ctrl-] ends the machine\r\n")
	quit := make(chan struct{})
	go func() { // ends with the process: a read from a terminal cannot be interrupted
		buf := make([]byte, 256)
		for {
			n, err := stdin.Read(buf)
			typed, _, end := strings.Cut(string(buf[:n]), string(rune(endKey)))
			m.Console.Send(typed)
			if end {
				close(quit)
				return
			}
			if err != nil {
				return
			}
		}
	}()
	select {
	case <-quit:
		m.Close()
		return nil
	case <-m.Done():
		return m.Wait()
	}
}
