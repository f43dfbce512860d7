package base

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"gridappliance/builder/fetch"
	"gridappliance/builder/manifest"
	"gridappliance/builder/progress"
)

// Limits of what Fetch takes from a server it need not trust.
const (
	maxManifest = 4 << 20 // bytes
	maxBaseFile = 4 << 30 // bytes
)

var checksumPattern = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// Fetch brings a base into the store: the manifest that source names, and the
// files beside it that the manifest lists. source is an http or https URL or
// a path, and must end in ?checksum=sha256:HEX, the manifest's SHA-256; the
// manifest names the SHA-256 of all else, so whoever serves them need not be
// trusted. A base that is in the store already is not fetched again.
func Fetch(ctx context.Context, s *Store, source string, p *progress.Reporter) (*Base, error) {
	place, query, _ := strings.Cut(source, "?")
	values, err := url.ParseQuery(query)
	if err != nil || !checksumPattern.MatchString(values.Get("checksum")) || len(values) != 1 {
		return nil, fmt.Errorf("fetch base %s: the URL does not end in ?checksum=sha256: and 64 hex digits of the manifest", source)
	}
	if !strings.HasSuffix(place, "/"+Manifest) && place != Manifest {
		return nil, fmt.Errorf("fetch base %s: the URL names no %s", source, Manifest)
	}
	folder := strings.TrimSuffix(place, Manifest)
	temp, err := s.temp("fetch")
	if err != nil {
		return nil, err
	}
	defer temp.Remove()

	out := temp.Join("out")
	if err := os.Mkdir(out, 0o755); err != nil {
		return nil, err
	}
	if err := fetch.File(ctx, place, values.Get("checksum")[len("sha256:"):], filepath.Join(out, Manifest), maxManifest, io.Discard); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(out, Manifest))
	if err != nil {
		return nil, err
	}
	m, err := manifest.Parse(place, text)
	if err != nil {
		return nil, err
	}
	final := s.path("bases", m.ID)
	if found, err := Open(final); err == nil {
		return found, nil
	}
	step := p.Start("fetch")
	if err := step.End(fetchFiles(ctx, m, folder, out, step)); err != nil {
		return nil, err
	}
	if _, err := Open(out); err != nil {
		return nil, err
	}
	if err := s.adopt(out, final, isBase); err != nil {
		return nil, err
	}
	return Open(final)
}

func fetchFiles(ctx context.Context, m *manifest.Manifest, folder, out string, step *progress.Step) error {
	var total int64
	for _, f := range m.Files {
		if f.Size > maxBaseFile {
			return fmt.Errorf("fetch base %s: %s has %d bytes, more than %d", folder, f.Name, f.Size, int64(maxBaseFile))
		}
		total += f.Size
	}
	step.Expect(total, progress.Bytes)
	for _, f := range m.Files {
		raw := filepath.Join(out, f.Name+".fetched")
		if err := fetch.File(ctx, folder+f.Name, f.SHA256, raw, f.Size, step); err != nil {
			return err
		}
		if err := copySparse(raw, filepath.Join(out, f.Name)); err != nil {
			return err
		}
		if err := os.Remove(raw); err != nil {
			return err
		}
	}
	return nil
}

// CopyTo copies the base into dir, made where absent, and opens the copy. The
// manifest comes last, so that a copy cut short is no base.
func (b *Base) CopyTo(dir string) (*Base, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("copy base: %w", err)
	}
	if err := os.Remove(filepath.Join(dir, Manifest)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("copy base: %w", err)
	}
	for _, name := range append(append([]string{}, files...), Manifest) {
		if err := copySparse(b.Path(name), filepath.Join(dir, name)); err != nil {
			return nil, fmt.Errorf("copy base: %w", err)
		}
	}
	return Open(dir)
}

// copySparse copies a file and leaves holes where its blocks are zero.
func copySparse(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	block := make([]byte, 64<<10)
	zero := make([]byte, len(block))
	var size int64
	for {
		n, err := io.ReadFull(in, block)
		if n > 0 && string(block[:n]) != string(zero[:n]) {
			if _, err := out.WriteAt(block[:n], size); err != nil {
				return err
			}
		}
		size += int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			break
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", from, err)
		}
	}
	if err := out.Truncate(size); err != nil {
		return err
	}
	return out.Close()
}
