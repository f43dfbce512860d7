package base

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// Store is the folder that bases, and everything they are made from, are kept
// in:
//
//	debs/SHA256.deb     packages
//	tools/KEY/          unpacked tools, KEY = hash of their packages
//	trees/KEY.tar       installed systems as mmdebstrap leaves them
//	bases/ID/           finished bases
//	modules/SHA256      modules that came from servers
//	tmp/                what is being made; renamed into place when whole
//
// Nothing in it is ever changed after it got its name, so any number of
// builds may use one Store at a time, and a build that is killed leaves
// nothing but a folder in tmp, which later builds remove after a day.
type Store struct{ dir string }

// DefaultStore returns the store's folder when the user names none:
// $XDG_CACHE_HOME/grid-appliance, else ~/.cache/grid-appliance.
func DefaultStore() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the store: %w", err)
	}
	return filepath.Join(dir, "grid-appliance"), nil
}

// OpenStore opens, and makes where absent, the store in dir; "" is the
// default store.
func OpenStore(dir string) (*Store, error) {
	if dir == "" {
		var err error
		if dir, err = DefaultStore(); err != nil {
			return nil, err
		}
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	for _, sub := range []string{"debs", "tools", "trees", "bases", "modules", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, fmt.Errorf("open store %s: %w", dir, err)
		}
	}
	s := &Store{dir: dir}
	s.sweep(time.Now().Add(-24 * time.Hour))
	return s, nil
}

// sweep removes what builds that were killed before then left in tmp.
func (s *Store) sweep(before time.Time) {
	entries, _ := os.ReadDir(filepath.Join(s.dir, "tmp"))
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.ModTime().Before(before) {
			os.RemoveAll(filepath.Join(s.dir, "tmp", e.Name()))
		}
	}
}

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

func (s *Store) deb(p Package) string { return s.path("debs", p.SHA256+".deb") }

// temp makes a folder in tmp; the caller removes it.
func (s *Store) temp(prefix string) (string, error) {
	dir, err := os.MkdirTemp(s.path("tmp"), prefix+"-")
	if err != nil {
		return "", fmt.Errorf("make a working folder: %w", err)
	}
	return dir, nil
}

// adopt renames a finished file or folder to its place. When another build
// was quicker, its result, equal by construction, stays and ours is removed.
func adopt(from, to string) error {
	err := os.Rename(from, to)
	if err == nil {
		return nil
	}
	if _, statErr := os.Stat(to); statErr == nil {
		return os.RemoveAll(from)
	}
	return fmt.Errorf("keep %s: %w", to, err)
}

// hashFile returns the SHA-256 in hex and the size of a file.
func hashFile(name string) (string, int64, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return "", 0, fmt.Errorf("read %s: %w", name, err)
	}
	return hex.EncodeToString(h.Sum(nil)), n, nil
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// Module returns the path of a module with this SHA-256. One that the store
// does not have is brought by get, which writes a file and checks it.
func (s *Store) Module(sha256 string, get func(to string) error) (string, error) {
	name := s.path("modules", sha256)
	if exists(name) {
		return name, nil
	}
	temp, err := s.temp("module")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(temp)
	file := filepath.Join(temp, "module")
	if err := get(file); err != nil {
		return "", err
	}
	return name, adopt(file, name)
}
