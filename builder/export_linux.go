package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"gridappliance/builder/layer"
	"gridappliance/internal/compose"
)

// machineChanges reads the changes of this machine: run is where /init left
// the user layer and the layers below, stamp is firstboot's.
func machineChanges(run, stamp string) (*layer.Changes, error) {
	table, err := os.ReadFile(filepath.Join(run, "layers"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("export: this is no appliance: it has no %s/layers (--image reads an image file)", run)
	}
	if err != nil {
		return nil, fmt.Errorf("export: %w", err)
	}
	var layers []string
	for _, line := range strings.Split(strings.TrimSpace(string(table)), "\n") {
		if name, _, _ := strings.Cut(line, " "); name != "changes" {
			layers = append(layers, filepath.Join(run, "layer", name))
		}
	}
	changes := filepath.Join(run, "user", "changes")
	if _, err := os.ReadDir(changes); errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("export: reading what this machine changed needs root: run it with sudo: %w", err)
	}
	c := &layer.Changes{}
	if c.Entries, err = layer.ReadDir(changes); err != nil {
		return nil, err
	}
	if c.Below, err = compose.Stacked(layers...); err != nil {
		return nil, fmt.Errorf("export: read the layers: %w", err)
	}
	text, err := os.ReadFile(stamp)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err == nil {
		c.Managed, err = stampPaths(text)
	}
	return c, err
}
