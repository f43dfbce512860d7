package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gridappliance/internal/diag"
	"gridappliance/internal/need"
	"gridappliance/internal/sysrun"
)

// TestBlank: a disk is blank only when nothing anywhere says otherwise.
func TestBlank(t *testing.T) {
	const size = 1 << 30
	disk := func(size, at int64) string {
		t.Helper()
		name := filepath.Join(t.TempDir(), "disk")
		f, err := os.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		if at >= 0 {
			if _, err := f.WriteAt([]byte{1}, at); err != nil {
				t.Fatal(err)
			}
		}
		return name
	}
	absent := filepath.Join(t.TempDir(), "gridlocal")
	if err := claimBlank(disk(size, -1), absent); err != nil {
		t.Errorf("a blank disk: %v", err)
	}
	for at, why := range map[int64]string{510: "byte 510 is", 0x10040: "byte 65600 is", localEnds - 1: "is not blank", size - 1: "is not blank",
		size / 2 / localCount * localCount: "is not blank", size - 34*512: "is not blank"} {
		err := claimBlank(disk(size, at), absent)
		if !errors.Is(err, diag.ErrNothing) || !strings.Contains(err.Error(), why) {
			t.Errorf("a byte at %d: %v", at, err)
		}
	}
	if err := claimBlank(disk(minLocal-1, -1), absent); !errors.Is(err, diag.ErrNothing) {
		t.Errorf("a disk too small: %v", err)
	}
	if err := claimBlank(disk(size, -1), disk(1, -1)); !errors.Is(err, diag.ErrNothing) || !strings.Contains(err.Error(), "another disk is labelled") {
		t.Errorf("with a gridlocal there: %v", err)
	}
}

// TestSignaturesAreContent: what other programs leave on a disk is seen.
func TestSignaturesAreContent(t *testing.T) {
	need.Tool(t, "mke2fs", "sgdisk", "mkswap")
	for _, args := range [][]string{{"mke2fs", "-q", "-F"}, {"sgdisk", "-o"}, {"mkswap"}} {
		name := filepath.Join(t.TempDir(), "disk")
		f, err := os.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f.Truncate(128<<20), f.Close()); err != nil {
			t.Fatal(err)
		}
		if _, err := sysrun.Output(t.Context(), args[0], append(args[1:], name)...); err != nil {
			t.Fatal(err)
		}
		if err := claimBlank(name, name+".absent"); !errors.Is(err, diag.ErrNothing) {
			t.Errorf("after %s: %v", args[0], err)
		}
	}
}
