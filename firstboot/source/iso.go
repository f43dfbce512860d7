package source

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/diskfs/go-diskfs/backend"
	"github.com/diskfs/go-diskfs/filesystem/iso9660"

	"gridappliance/floppy"
)

const (
	// isoSize is how much of a CD is read, in bytes: a floppy's files fit many
	// times, and nothing the disc says about itself can make us read more.
	isoSize = 8 << 20
	// isoDirectory bounds the root directory and path table, in bytes; the
	// library allocates what the disc asks for.
	isoDirectory = 64 << 10
)

// readISO returns the files at the root of the CD at path.
func readISO(path string) ([]floppy.File, error) {
	image, err := readStart(path, isoSize, syscall.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	return parseISO(image)
}

// parseISO returns the files at the root of an ISO 9660 image, under the names
// its Joliet or Rock Ridge tree gives them, else under the plain ones.
// Folders are left out: a floppy has none.
func parseISO(image []byte) ([]floppy.File, error) {
	if len(image) < isoStart+2048 || !isISO(image[isoStart:]) {
		return nil, errors.New("not an ISO 9660 filesystem")
	}
	descriptor := image[isoStart:]
	table := binary.LittleEndian.Uint32(descriptor[132:]) // ECMA-119 §8.4.15
	root := binary.LittleEndian.Uint32(descriptor[166:])  // §8.4.18, data length of the record at 156
	if table > isoDirectory || root > isoDirectory {
		return nil, errors.New("the disc's directory is too large for a floppy's files")
	}
	iso, err := iso9660.Read(memory{bytes.NewReader(image)}, 0, 0, 0)
	if err != nil {
		return nil, err
	}
	entries, err := iso.ReadDir(".")
	if err != nil {
		return nil, err
	}
	var files []floppy.File
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		data, err := readEntry(iso, e)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.Name(), err)
		}
		name, _, _ := strings.Cut(e.Name(), ";") // ";1" is a version
		files = append(files, floppy.File{Name: strings.TrimSuffix(name, "."), Data: data})
	}
	return files, nil
}

// readEntry returns the contents of one file, refusing what no floppy holds.
func readEntry(iso *iso9660.FileSystem, e fs.DirEntry) ([]byte, error) {
	f, err := iso.OpenFile(e.Name(), os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, floppy.Size+1))
	if err != nil {
		return nil, err
	}
	if len(data) > floppy.Size {
		return nil, errors.New("larger than a floppy")
	}
	return data, nil
}

// memory makes an image in memory a backend of go-diskfs.
type memory struct{ *bytes.Reader }

func (memory) Stat() (fs.FileInfo, error)              { return nil, backend.ErrNotSuitable }
func (memory) Close() error                            { return nil }
func (memory) Sys() (*os.File, error)                  { return nil, backend.ErrNotSuitable }
func (memory) Writable() (backend.WritableFile, error) { return nil, backend.ErrIncorrectOpenMode }
func (memory) Path() string                            { return "" }
