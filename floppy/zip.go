package floppy

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"encoding/base64"
	"fmt"
	"io"

	"gridappliance/internal/diag"
)

// MaxZip is how long a zipped floppy may be, in bytes: what the first
// generation's took, and what fits every way to hand one to a machine but a
// cloud's metadata (16,384).
const MaxZip = 25_000

// zipEntry is the only file in a zipped floppy.
const zipEntry = "floppy.img"

// Zip returns image as a zip with the one file floppy.img. Equal images give
// equal bytes. An image that takes more than MaxZip is refused.
func Zip(image []byte) ([]byte, error) {
	if p := checkGeometry(image); len(p) > 0 {
		return nil, p
	}
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	w.RegisterCompressor(zip.Deflate, func(w io.Writer) (io.WriteCloser, error) {
		return flate.NewWriter(w, flate.BestCompression)
	})
	entry, err := w.CreateHeader(&zip.FileHeader{Name: zipEntry, Method: zip.Deflate})
	if err == nil {
		_, err = entry.Write(image)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("zip floppy: %w", err)
	}
	if b.Len() > MaxZip {
		return nil, diag.List{{Message: fmt.Sprintf("zipped it has %d bytes, at most %d are allowed", b.Len(), MaxZip),
			Remedy: "leave large files out of it"}}
	}
	return b.Bytes(), nil
}

// Unzip returns the image in a zipped floppy: the zip's only file, whatever
// its name, which must have Size bytes. Nothing longer is unpacked.
func Unzip(data []byte) ([]byte, error) {
	wrong := func(format string, args ...any) ([]byte, error) {
		return nil, diag.List{{Message: "zip: " + fmt.Sprintf(format, args...), Remedy: "make it with builder floppy zip"}}
	}
	if len(data) > MaxZip {
		return wrong("has %d bytes, a zipped floppy at most %d", len(data), MaxZip)
	}
	r, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return wrong("not a zip file, or cut off")
	}
	if len(r.File) != 1 {
		return wrong("holds %d files, not just a floppy image", len(r.File))
	}
	f := r.File[0]
	if f.UncompressedSize64 != Size {
		return wrong("%s has %d bytes, a floppy image %d", printable(f.Name), f.UncompressedSize64, Size)
	}
	content, err := f.Open()
	if err != nil {
		return wrong("%s is packed in a way that is not known", printable(f.Name))
	}
	defer content.Close()
	image := make([]byte, Size)
	if _, err := io.ReadFull(content, image); err != nil {
		return wrong("%s cannot be unpacked", printable(f.Name))
	}
	if n, err := content.Read(make([]byte, 1)); n != 0 || err != io.EOF { // also compares the checksum
		return wrong("%s is not what its checksum says", printable(f.Name))
	}
	return image, nil
}

// DecodeCredential returns the image in a grid.cfg credential: the base64 of
// a zipped floppy, in which white space does not count.
func DecodeCredential(text []byte) ([]byte, error) {
	compact := bytes.Join(bytes.Fields(text), nil)
	if limit := base64.StdEncoding.EncodedLen(MaxZip); len(compact) > limit {
		return nil, diag.List{{Message: fmt.Sprintf("credential: has %d bytes, at most %d make sense", len(compact), limit)}}
	}
	data := make([]byte, base64.StdEncoding.DecodedLen(len(compact)))
	n, err := base64.StdEncoding.Decode(data, compact)
	if err != nil || n == 0 {
		return nil, diag.List{{Message: "credential: not base64", Remedy: "make it with builder floppy zip and base64"}}
	}
	return Unzip(data[:n])
}

// EncodeCredential returns a zipped floppy as DecodeCredential takes it.
func EncodeCredential(zip []byte) []byte {
	return base64.StdEncoding.AppendEncode(nil, zip)
}

// Unwrap returns the image in data, which may be an image, a zipped floppy or
// the base64 of one: whatever a person or a cloud may hand over.
func Unwrap(data []byte) ([]byte, error) {
	switch {
	case bytes.HasPrefix(data, []byte("PK\x03\x04")):
		return Unzip(data)
	case len(data) < Size/2 && isBase64(data):
		return DecodeCredential(data)
	}
	return data, nil
}

// isBase64 reports whether data begins as the base64 of a zip does.
func isBase64(data []byte) bool {
	return bytes.HasPrefix(bytes.TrimSpace(data), []byte("UEsDB"))
}
