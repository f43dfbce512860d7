package source

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"gridappliance/floppy"
)

// credentialName is the name of the credential that carries a floppy.
const credentialName = "grid.cfg"

// maxCredential bounds a credential, in bytes: the limit systemd has.
const maxCredential = 1 << 20

// carrier is one way a hypervisor hands a credential to its guest.
type carrier struct {
	name string
	read func(context.Context, Machine) ([]byte, error)
}

// carriers in the order they are asked. systemd has usually collected the
// first three in its folder already; the raw tables are read for a systemd
// that does not, or was told not to.
var carriers = []carrier{
	{"system credentials", fileCarrier("run/credentials/@system/" + credentialName)},
	{"fw_cfg", fileCarrier("sys/firmware/qemu_fw_cfg/by_name/opt/io.systemd.credentials/" + credentialName + "/raw")},
	{"SMBIOS", readSMBIOS},
	{"VMware guestinfo", readGuestInfo},
}

// lookCredential reads the floppy that the hypervisor passed in.
func lookCredential(ctx context.Context, m Machine) (*Found, error) {
	for _, c := range carriers {
		raw, err := c.read(ctx, m)
		name := "credential " + credentialName + " (" + c.name + ")"
		if err == nil && len(raw) > maxCredential {
			err = errors.New("larger than 1 MB")
		}
		if err != nil {
			return nil, asList(name, err)
		}
		if len(raw) == 0 {
			continue
		}
		image, err := imageOfCredential(raw)
		if err != nil {
			return nil, asList(name, err)
		}
		return &Found{Source: name, Image: image}, nil
	}
	return nil, empty("not given by SMBIOS, fw_cfg or guestinfo")
}

// imageOfCredential returns the floppy in raw: its zip, or the zip's base64.
func imageOfCredential(raw []byte) ([]byte, error) {
	image, err := floppy.Unwrap(raw)
	if err == nil && len(image) != floppy.Size {
		err = errors.New("not the base64 of a floppy's zip")
	}
	return image, err
}

// fileCarrier returns a reader of the file at path below Root; an absent file
// is an absent credential.
func fileCarrier(path string) func(context.Context, Machine) ([]byte, error) {
	return func(_ context.Context, m Machine) ([]byte, error) {
		b, err := readStart(filepath.Join(m.Root, path), maxCredential+1, 0)
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil
		}
		return b, err
	}
}

// readGuestInfo asks VMware for the variable guestinfo.grid.cfg.
func readGuestInfo(ctx context.Context, m Machine) ([]byte, error) {
	if m.GuestInfo == nil {
		return nil, nil
	}
	return m.GuestInfo(ctx, "guestinfo."+credentialName)
}
