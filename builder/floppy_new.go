package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gridappliance/credential"
	"gridappliance/floppy"
	floppytemplates "gridappliance/floppy-templates"
	"gridappliance/internal/diag"
)

// floppyNew is the flags of builder floppy new.
type floppyNew struct {
	roles            []string
	grid             string
	group, user      string
	namespaces       []string
	router           bool
	valid            string
	config           string
	settings         []string
	sshKeys          []string
	ipopXML, dhcpXML string
	output           string
	force            bool
}

func newFloppyNewCommand() *cobra.Command {
	var o floppyNew
	c := &cobra.Command{
		Use:   "new --role ROLE [--grid DIR --group GROUP --user USER] -o FILE",
		Short: "make a floppy",
		Long: `Makes a floppy from the template of its role. A worker's or client's gets a new
credential of the grid, signed with the root key in the grid's folder; it boots
any number of machines. "standalone" needs no grid. Masters' floppies are made
by builder grid new.

The file has mode 0600, since it holds a key. A name that ends in .zip makes a
zipped floppy.` + exitInvalid,
		Example: `  builder floppy new --role standalone -o try.img
  builder floppy new --grid archer --role worker --group physics --user alice -o alice.img
  builder floppy new --grid archer --role client,worker --group physics --user alice \
      --valid 30d --set network.hostname=oak --ssh-key ~/.ssh/id_ed25519.pub -o alice.zip`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return o.run(c, time.Now()) },
	}
	f := c.Flags()
	f.StringSliceVar(&o.roles, "role", nil, "what the machine is: worker, client or standalone; of several the credential allows all and the first is set")
	f.StringVar(&o.grid, "grid", "", "`folder` of the grid, as builder grid new made it")
	f.StringVar(&o.group, "group", "", "the group whose jobs come first")
	f.StringVar(&o.user, "user", "", "the person the floppy is for")
	f.StringSliceVar(&o.namespaces, "namespace", nil, "virtual networks the credential allows (default all of the grid)")
	f.BoolVar(&o.router, "router", false, "allow the machine to join the LAN behind it")
	f.StringVar(&o.valid, "valid", "90d", "how long the credential is good")
	f.StringVar(&o.config, "config", "", "`file` to use as GRID.TML instead of the role's template")
	addSettingFlags(c, &o.settings, &o.sshKeys)
	f.StringVar(&o.ipopXML, "ipop-xml", "", "first-generation IpopConfig.xml to put on the floppy")
	f.StringVar(&o.dhcpXML, "dhcp-xml", "", "first-generation DHCPServerConfig.xml to put on the floppy")
	f.StringVarP(&o.output, "output", "o", "", "the `file` to write")
	f.BoolVar(&o.force, "force", false, "replace a file that exists")
	c.MarkFlagRequired("role")
	c.MarkFlagRequired("output")
	c.MarkFlagFilename("output", "img", "zip")
	c.MarkFlagDirname("grid")
	c.RegisterFlagCompletionFunc("role", cobra.FixedCompletions([]string{"worker", "client", "standalone"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// addSettingFlags adds the flags that new and edit share.
func addSettingFlags(c *cobra.Command, settings, sshKeys *[]string) {
	c.Flags().StringArrayVar(settings, "set", nil, "set a `key=value` of GRID.TML, such as network.hostname=oak; may be repeated")
	c.Flags().StringArrayVar(sshKeys, "ssh-key", nil, "public key `file` that may log in; may be repeated")
	c.RegisterFlagCompletionFunc("set", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		var keys []string
		for _, k := range floppy.Keys {
			keys = append(keys, k.Path+"=")
		}
		return keys, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	})
}

func (o *floppyNew) run(c *cobra.Command, now time.Time) error {
	valid, err := o.checkFlags()
	if err != nil {
		return diag.UsageError{Err: err}
	}
	files, err := o.files()
	if err != nil {
		return err
	}
	var grid *credential.Grid
	if o.grid != "" {
		if grid, err = credential.LoadGrid(o.grid); err != nil {
			return err
		}
		issued, err := o.issue(grid, valid, now)
		if err != nil {
			return err
		}
		files = append(files, issued...)
	}
	image, f, err := makeImage(filepath.Base(o.output), files, now)
	if err != nil {
		return err
	}
	if grid != nil { // before the key is handed out, so that it can be revoked
		if err := grid.Save(o.grid); err != nil {
			return err
		}
	}
	if err := writeFloppy(o.output, image, isZipName(o.output), o.force); err != nil {
		return err
	}
	fmt.Fprintf(c.ErrOrStderr(), "made %s: %s\n", o.output, describe(f, now))
	return nil
}

// checkFlags returns how long the credential shall last.
func (o *floppyNew) checkFlags() (time.Duration, error) {
	for _, r := range o.roles {
		switch floppy.Role(r) {
		case floppy.RoleStandalone:
			if len(o.roles) > 1 || o.grid != "" {
				return 0, errors.New(`role "standalone" stands alone: leave --grid and other roles out`)
			}
			return 0, nil
		case floppy.RoleMaster:
			return 0, errors.New("masters' floppies are made by builder grid new")
		case floppy.RoleWorker, floppy.RoleClient:
		default:
			return 0, fmt.Errorf("--role %q: %s", r, diag.DidYouMean(r, []string{"worker", "client", "standalone"}, "write worker, client or standalone"))
		}
	}
	if o.grid == "" || o.group == "" || o.user == "" {
		return 0, fmt.Errorf("role %q needs --grid, --group and --user", o.roles[0])
	}
	return parseDays(o.valid)
}

var daysPattern = regexp.MustCompile(`^([0-9]{1,4})d$`)

// parseDays reads 90d, or hours and minutes as time.ParseDuration does.
func parseDays(text string) (time.Duration, error) {
	if m := daysPattern.FindStringSubmatch(text); m != nil {
		n, _ := strconv.Atoi(m[1])
		return time.Duration(n) * 24 * time.Hour, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("--valid %q: write days, such as 90d, or hours, such as 12h", text)
	}
	return d, nil
}

// files returns what the floppy holds beside its credential. The
// configuration is checked by itself first: nothing is signed for a floppy
// that cannot be made.
func (o *floppyNew) files() ([]floppy.File, error) {
	name, text := floppy.ConfigFile, []byte(nil)
	var err error
	if o.config != "" {
		name = filepath.Base(o.config)
		text, err = readBounded(o.config, 1<<20)
	} else {
		text, err = floppytemplates.FS.ReadFile(o.roles[0] + ".toml")
	}
	if err != nil {
		return nil, err
	}
	if text, err = applySettings(name, text, o.settings); err != nil {
		return nil, err
	}
	config, err := floppy.DecodeConfig(name, text)
	if err != nil {
		return nil, err
	}
	config.ApplyDefaults()
	if problems := config.Validate(); len(problems) > 0 {
		return nil, problems
	}
	if got := string(config.Machine.Role); got != o.roles[0] {
		return nil, diag.UsageError{Err: fmt.Errorf("--role %s, but the configuration says role = %q", o.roles[0], got)}
	}
	files := []floppy.File{{Name: floppy.ConfigFile, Data: text}}
	for _, x := range []struct{ name, path string }{{floppy.IPOPXMLFile, o.ipopXML}, {floppy.DHCPXMLFile, o.dhcpXML}} {
		if x.path == "" {
			continue
		}
		data, err := readBounded(x.path, 1<<20)
		if err != nil {
			return nil, err
		}
		files = append(files, floppy.File{Name: x.name, Data: data})
	}
	keys, err := readKeys(o.sshKeys)
	if err != nil {
		return nil, err
	}
	if keys != nil {
		files = append(files, floppy.File{Name: floppy.SSHKeysFile, Data: keys})
	}
	return files, nil
}

// issue signs the credential and returns its files.
func (o *floppyNew) issue(grid *credential.Grid, valid time.Duration, now time.Time) ([]floppy.File, error) {
	req := credential.HolderRequest{
		User: o.user, Group: o.group, Namespaces: o.namespaces, Valid: valid, Rights: credential.Rights{Router: o.router},
	}
	for _, r := range o.roles {
		req.Roles = append(req.Roles, credential.Role(r))
	}
	cert, key, err := grid.IssueHolder(req, now)
	if err != nil {
		return nil, err
	}
	return []floppy.File{
		{Name: floppy.DescriptorFile, Data: grid.Descriptor.Text()},
		{Name: floppy.HolderCertFile, Data: cert},
		{Name: floppy.HolderKeyFile, Data: key},
	}, nil
}

// describe says in one line what a good floppy makes of a machine.
func describe(f *floppy.Floppy, now time.Time) string {
	id, err := f.Identity(now)
	if err != nil || id == nil {
		return string(f.Config.Machine.Role)
	}
	h := id.Holder
	return fmt.Sprintf("%s in grid %s, namespace %s, group %s, user %s, until %s", f.Config.Machine.Role, h.Grid,
		strings.Join(h.Namespaces, ", "), h.Group, h.User, h.NotAfter.UTC().Format(time.DateOnly))
}
