package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gridappliance/floppy"
	"gridappliance/internal/diag"
	"gridappliance/internal/sysrun"
)

func newFloppyZipCommand() *cobra.Command {
	var output string
	var asCredential, force bool
	c := &cobra.Command{
		Use:   "zip FLOPPY [-o FILE]",
		Short: "zip a floppy, to send it or to hand it to a virtual machine",
		Long: `Writes the floppy as a zip with the one file floppy.img: what a person
downloads, 25,000 bytes at most. With --credential it writes the base64 of that
zip, which a virtual machine takes as the credential grid.cfg by SMBIOS, fw_cfg,
VMware's guestinfo or a cloud's user data. Equal floppies give equal zips.

The file has mode 0600, since it holds a key. -o - writes to standard output.` + exitInvalid,
		Example: `  builder floppy zip alice.img
  builder floppy zip --credential alice.img -o grid.cfg`,
		Args: cobra.ExactArgs(1),
	}
	c.Flags().StringVarP(&output, "output", "o", "", "the `file` to write (default the floppy's name with .zip)")
	c.Flags().BoolVar(&asCredential, "credential", false, "write base64 for grid.cfg")
	c.Flags().BoolVar(&force, "force", false, "replace a file that exists")
	c.RunE = func(c *cobra.Command, args []string) error {
		name, image, _, err := loadFloppy(args[0])
		if err != nil {
			return err
		}
		if _, err := floppy.Open(name, image); err != nil {
			return err
		}
		data, err := floppy.Zip(image)
		if err != nil {
			return inFloppy(name, diag.Of(err))
		}
		ending := ".zip"
		if asCredential {
			data, ending = append(floppy.EncodeCredential(data), '\n'), ".cfg"
		}
		switch output {
		case "-":
			_, err := c.OutOrStdout().Write(data)
			return err
		case "":
			output = strings.TrimSuffix(args[0], filepath.Ext(args[0])) + ending
		}
		if _, err := os.Lstat(output); err == nil && !force {
			return fmt.Errorf("write %s: file already exists; --force replaces it", output)
		}
		return writeSecret(output, data)
	}
	return c
}

// floppyEdit is the flags of builder floppy edit.
type floppyEdit struct {
	config   string
	settings []string
	sshKeys  []string
}

func newFloppyEditCommand() *cobra.Command {
	var o floppyEdit
	c := &cobra.Command{
		Use:   "edit FLOPPY",
		Short: "change a floppy's configuration",
		Long: `Opens GRID.TML of the floppy in $VISUAL or $EDITOR, or changes it as --set,
--config and --ssh-key say. The floppy is checked before it is written, and
written whole or not at all; a text that does not pass is kept beside it.` + exitInvalid,
		Example: `  builder floppy edit alice.img
  builder floppy edit alice.img --set network.hostname=oak --set condor.slots=2
  builder floppy edit alice.img --ssh-key ~/.ssh/id_ed25519.pub`,
		Args: cobra.ExactArgs(1),
	}
	at := addTimeFlag(c)
	c.Flags().StringVar(&o.config, "config", "", "`file` to use as GRID.TML")
	addSettingFlags(c, &o.settings, &o.sshKeys)
	c.RunE = func(c *cobra.Command, args []string) error { return o.run(c, args[0], at.now()) }
	return c
}

func (o *floppyEdit) run(c *cobra.Command, path string, now time.Time) error {
	name, image, zipped, err := loadFloppy(path)
	if err != nil {
		return err
	}
	files, err := floppy.ReadImage(image)
	if err != nil {
		return inFloppy(name, diag.Of(err))
	}
	if o.sshKeys != nil {
		keys, err := readKeys(o.sshKeys)
		if err != nil {
			return err
		}
		files = replaceFile(files, floppy.SSHKeysFile, keys)
	}
	before := configText(files)
	text, edited, err := o.text(c, name, before)
	if err != nil {
		return err
	}
	if edited && bytes.Equal(text, before) {
		fmt.Fprintf(c.ErrOrStderr(), "%s: not changed\n", path)
		return nil
	}
	changed, f, err := makeImage(name, replaceFile(files, floppy.ConfigFile, text), now)
	if err != nil && edited {
		return keepText(c, path, text, err)
	}
	if err != nil {
		return err
	}
	if err := writeFloppy(path, changed, zipped, true); err != nil {
		return err
	}
	fmt.Fprintf(c.ErrOrStderr(), "changed %s: %s\n", path, describe(f, now))
	return nil
}

// configText returns the text of GRID.TML, or nil.
func configText(files []floppy.File) []byte {
	for _, f := range files {
		if floppy.CanonicalName(f.Name) == floppy.ConfigFile {
			return f.Data
		}
	}
	return nil
}

// text returns the new GRID.TML, and whether it comes from an editor.
func (o *floppyEdit) text(c *cobra.Command, name string, before []byte) (text []byte, edited bool, err error) {
	text = before
	if o.config != "" {
		if text, err = readBounded(o.config, 1<<20); err != nil {
			return nil, false, err
		}
	}
	if o.config != "" || o.settings != nil || o.sshKeys != nil {
		text, err = applySettings(name+"/"+floppy.ConfigFile, text, o.settings)
		return text, false, err
	}
	text, err = editText(c.Context(), c, before)
	return text, true, err
}

// keepText saves what a person typed and returns err, which says why it does
// not go on the floppy.
func keepText(c *cobra.Command, path string, text []byte, err error) error {
	kept := path + ".rejected.toml"
	if writeErr := writeSecret(kept, text); writeErr != nil {
		return errors.Join(err, writeErr)
	}
	fmt.Fprintf(c.ErrOrStderr(), "%s is as it was; your text is in %s\n"+
		"correct it there, then run: builder floppy edit --config %s %s\n\n", path, kept, kept, path)
	return err
}

// editText has a person change text in an editor.
func editText(ctx context.Context, c *cobra.Command, text []byte) ([]byte, error) {
	editor := strings.Fields(os.Getenv("VISUAL"))
	if len(editor) == 0 {
		editor = strings.Fields(os.Getenv("EDITOR"))
	}
	if len(editor) == 0 {
		found, err := sysrun.Find("editor", "nano", "vi", "notepad")
		if err != nil {
			return nil, fmt.Errorf("edit: %w; set EDITOR, or use --set or --config", diag.ErrNothing)
		}
		editor = []string{found}
	}
	dir, err := os.MkdirTemp("", "floppy-") // 0700
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "GRID.toml") // the ending, for the editor's colours
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return nil, err
	}
	_, err = sysrun.Run(ctx, sysrun.Command{
		Name: editor[0], Args: append(editor[1:], file),
		Stdin: c.InOrStdin(), Stdout: c.OutOrStdout(), Stderr: c.ErrOrStderr(), Terminal: true,
	})
	if err != nil {
		return nil, err
	}
	return os.ReadFile(file)
}
