package deliver

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"time"

	"gridappliance/builder/descriptor"
	"gridappliance/builder/disk"
	"gridappliance/builder/format"
)

// maxOVADisk is the largest file that a ustar header can name: 11 octal digits.
const maxOVADisk = 1<<33 - 1

// writeOVA writes an Open Virtualization Format package (DMTF DSP0243 §5.3): a
// ustar archive of, in this order,
//
//	STEM.ovf          the envelope
//	STEM.mf           SHA256(FILE)= HEX for each other file
//	STEM-disk1.vmdk   a streamOptimized disk
//
// The envelope states the disk's size and the manifest its hash, and both come
// first. So the disk is written first, to where it will stand, and the rest is
// put before it: the place is known, since an envelope with a short size is
// filled up with newlines to the length of one with the longest.
func writeOVA(ctx context.Context, f *os.File, d *disk.Image, m descriptor.Machine, mtime time.Time) error {
	longest := len(m.OVF(math.MaxInt64))
	head, err := ovaHead(m, longest, 0, [32]byte{}, mtime)
	if err != nil {
		return err
	}
	diskAt := int64(len(head))
	if _, err := f.Seek(diskAt, io.SeekStart); err != nil {
		return err
	}
	sum := sha256.New()
	w := bufio.NewWriterSize(io.MultiWriter(f, sum), 1<<20)
	if err := format.StreamVMDK(ctx, w, d, m.OVFDisk(), m.ID); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	end, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	if end-diskAt > maxOVADisk {
		return fmt.Errorf("the disk has %d bytes, an OVA can hold %d: leave software out, or use another target", end-diskAt, int64(maxOVADisk))
	}
	if head, err = ovaHead(m, longest, end-diskAt, [32]byte(sum.Sum(nil)), mtime); err != nil {
		return err
	}
	if int64(len(head)) != diskAt {
		return fmt.Errorf("ova: the disk stands at %d, its header ends at %d", diskAt, len(head))
	}
	if _, err := f.WriteAt(head, 0); err != nil {
		return err
	}
	return f.Truncate(end + 1024) // the disk is whole sectors; two of zeros end the archive
}

// ovaHead returns the archive up to the first byte of a disk of size bytes
// with hash diskSum.
func ovaHead(m descriptor.Machine, envelopeLength int, size int64, diskSum [32]byte, mtime time.Time) ([]byte, error) {
	envelope := m.OVF(size)
	envelope += strings.Repeat("\n", envelopeLength-len(envelope))
	manifest := fmt.Sprintf("SHA256(%s.ovf)= %x\nSHA256(%s)= %x\n", m.Stem, sha256.Sum256([]byte(envelope)), m.OVFDisk(), diskSum)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	header := func(name string, size int64) error {
		return w.WriteHeader(&tar.Header{Name: name, Size: size, Mode: 0o644, ModTime: mtime, Format: tar.FormatUSTAR})
	}
	for _, file := range []struct{ name, text string }{{m.Stem + ".ovf", envelope}, {m.Stem + ".mf", manifest}} {
		if err := header(file.name, int64(len(file.text))); err != nil {
			return nil, err
		}
		if _, err := io.WriteString(w, file.text); err != nil {
			return nil, err
		}
	}
	err := header(m.OVFDisk(), size)
	return b.Bytes(), err
}
