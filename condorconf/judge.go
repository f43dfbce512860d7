package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gridappliance/condorconf/knob"
	"gridappliance/condorconf/tree"
	"gridappliance/internal/diag"
	"gridappliance/internal/sysrun"
)

// judge lets the installed HTCondor read the configuration among files: the
// syntax by condor_config_val, each expression by classad_eval, because the
// former takes any expression. It returns false where HTCondor is not
// installed. What HTCondor refuses is returned as a diag.List.
func judge(ctx context.Context, files []tree.File) (bool, error) {
	val, err := sysrun.Find("condor_config_val")
	if err != nil {
		return false, nil
	}
	eval, err := sysrun.Find("classad_eval")
	if err != nil {
		return false, nil
	}
	dir, err := os.MkdirTemp("", "condorconf-check-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)
	env, err := stage(dir, files)
	if err != nil {
		return false, err
	}
	if _, err := sysrun.Run(ctx, sysrun.Command{Name: val, Args: []string{"-summary"}, Env: env}); err != nil {
		return true, diag.List{{Message: err.Error()}}
	}
	// It exits with 1 as soon as this role leaves one of the names out.
	r, _ := sysrun.Run(ctx, sysrun.Command{Name: val, Args: knob.Names(knob.Expression), Env: env})
	expressions := slices.DeleteFunc(strings.Split(string(r.Stdout), "\n"), func(line string) bool { return line == "" })
	if _, err := sysrun.Run(ctx, sysrun.Command{Name: eval, Args: expressions}); err != nil {
		return true, diag.List{{Message: "not a ClassAd expression: " + err.Error()}}
	}
	return true, nil
}

// stage writes the HTCondor files among files into a folder with a main
// configuration that reads the installed one and then them, and returns the
// environment that makes HTCondor's tools read it. The interface is replaced by
// loopback, because reading stops where the virtual device is not there.
func stage(dir string, files []tree.File) ([]string, error) {
	for _, f := range files {
		if !strings.HasPrefix(f.Path, "etc/condor/config.d/") {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(f.Path)), f.Data, 0o600); err != nil {
			return nil, err
		}
	}
	main := filepath.Join(dir, ".condor_config") // a hidden file is not part of the folder's configuration
	text := fmt.Sprintf("include : /etc/condor/condor_config\nLOCAL_CONFIG_FILE =\nLOCAL_CONFIG_DIR = /usr/share/condor/config.d, %s\n", dir)
	if err := os.WriteFile(main, []byte(text), 0o600); err != nil {
		return nil, err
	}
	env := slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "_CONDOR_") || strings.HasPrefix(v, "CONDOR_CONFIG=")
	})
	return append(env, "CONDOR_CONFIG="+main, "_CONDOR_NETWORK_INTERFACE=127.0.0.1"), nil
}
