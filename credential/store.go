package credential

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"gridappliance/internal/atomicfile"
)

// The files of a grid's directory. Keys and the ledger are 0600, the directory
// 0700.
const (
	fileRootKey    = "root.key"
	fileRootCert   = "root.crt"
	fileCondorKey  = "condor-root.key"
	fileCondorCert = "condor-root.crt"
	fileDescriptor = "grid.dsc"

	// RevocationsFile is the signed revocation list.
	RevocationsFile = "revoked.pem"
	fileLedger      = "issued.json"
)

// savedFile is one file of the directory; Save writes them in this order, the
// ledger first: nothing is ever in use that the ledger does not know.
type savedFile struct {
	name string
	text []byte
}

func (g *Grid) files() ([]savedFile, error) {
	ledger, err := json.MarshalIndent(g.Ledger, "", "  ")
	if err != nil {
		return nil, err
	}
	rootKey, err := FormatKey(g.root.key)
	if err != nil {
		return nil, err
	}
	condorKey, err := FormatKey(g.condor.key)
	if err != nil {
		return nil, err
	}
	files := []savedFile{
		{fileLedger, append(ledger, '\n')},
		{fileRootKey, rootKey},
		{fileRootCert, Certificate(g.root.cert.Raw).PEM()},
		{fileCondorKey, condorKey},
		{fileCondorCert, Certificate(g.condor.cert.Raw).PEM()},
		{fileDescriptor, g.Descriptor.Text()},
	}
	if g.Revocations != nil {
		files = append(files, savedFile{RevocationsFile, g.Revocations.Text()})
	}
	return files, nil
}

// Save writes what changed since LoadGrid into dir, each file atomically. A
// directory that does not exist is made; one that another process has written
// to since LoadGrid is left alone, with an error.
func (g *Grid) Save(dir string) error {
	files, err := g.files()
	if err != nil {
		return fmt.Errorf("save grid %s: %w", dir, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("save grid: %w", err)
	}
	for _, f := range files {
		now, err := os.ReadFile(filepath.Join(dir, f.name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("save grid: %w", err)
		}
		if !bytes.Equal(now, g.loaded[f.name]) {
			return fmt.Errorf("save grid %s: %s has changed since it was read; nothing was written, try again", dir, f.name)
		}
	}
	if g.loaded == nil {
		g.loaded = map[string][]byte{}
	}
	for _, f := range files {
		if bytes.Equal(f.text, g.loaded[f.name]) {
			continue
		}
		if err := atomicfile.Write(filepath.Join(dir, f.name), f.text, 0o600); err != nil {
			return fmt.Errorf("save grid %s: %w", dir, err)
		}
		g.loaded[f.name] = f.text
	}
	return nil
}

// LoadGrid reads a directory that Save wrote and checks that its parts belong
// together.
func LoadGrid(dir string) (*Grid, error) {
	g := &Grid{loaded: map[string][]byte{}}
	for _, name := range []string{fileLedger, fileRootKey, fileRootCert, fileCondorKey, fileCondorCert, fileDescriptor, RevocationsFile} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) && name == RevocationsFile {
			continue
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("grid %s: there is no %s; bring the folder back from its copy, or make a new grid with 'builder grid new %s': %w", dir, name, dir, err)
		}
		if err != nil {
			return nil, fmt.Errorf("grid: %w", err)
		}
		g.loaded[name] = text
	}
	if err := g.parse(); err != nil {
		return nil, fmt.Errorf("grid %s: %w", dir, err)
	}
	return g, nil
}

func (g *Grid) parse() error {
	decoder := json.NewDecoder(bytes.NewReader(g.loaded[fileLedger]))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&g.Ledger); err != nil {
		return fmt.Errorf("%s: %w: %v", fileLedger, ErrFormat, err)
	}
	var err error
	if g.Descriptor, err = ParseDescriptor(g.loaded[fileDescriptor]); err != nil {
		return err
	}
	if err := g.Descriptor.CheckSignature(nil); err != nil {
		return err
	}
	if g.root, err = parseSigner(g.loaded[fileRootCert], g.loaded[fileRootKey]); err != nil {
		return fmt.Errorf("%s: %w", fileRootKey, err)
	}
	if g.condor, err = parseSigner(g.loaded[fileCondorCert], g.loaded[fileCondorKey]); err != nil {
		return fmt.Errorf("%s: %w", fileCondorKey, err)
	}
	if !containsCert(g.Descriptor.Roots, g.root.cert) || !containsCert([]Certificate{g.Descriptor.CondorRoot}, g.condor.cert) {
		return fmt.Errorf("%w: %s and %s are not the roots that %s names", ErrKey, fileRootCert, fileCondorCert, fileDescriptor)
	}
	if text := g.loaded[RevocationsFile]; text != nil {
		if g.Revocations, err = ParseRevocations(text); err != nil {
			return err
		}
		return g.Revocations.CheckSignature(g.Descriptor)
	}
	return nil
}

func containsCert(list []Certificate, c *x509.Certificate) bool {
	for _, e := range list {
		if parsed, err := parseCertificate(e); err == nil && keyIDOfCert(parsed) == keyIDOfCert(c) {
			return true
		}
	}
	return false
}

func parseSigner(cert, key []byte) (signer, error) {
	chain, err := ParseChain(cert)
	if err != nil {
		return signer{}, err
	}
	c, err := parseCertificate(chain[0])
	if err != nil {
		return signer{}, err
	}
	k, err := ParseKey(key)
	if err != nil {
		return signer{}, err
	}
	if have, want := KeyIDOf(&k.PublicKey), keyIDOfCert(c); have != want {
		return signer{}, fmt.Errorf("%w: the private key is %v, the certificate's is %v", ErrKey, have, want)
	}
	return signer{c, k}, nil
}
