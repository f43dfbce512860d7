//go:build !linux

package main

import (
	"errors"

	"gridappliance/builder/layer"
)

// machineChanges has no machine to read: the appliance runs Linux.
func machineChanges(_, _ string) (*layer.Changes, error) {
	return nil, errors.New("export: this is no appliance (--image reads an image file)")
}
