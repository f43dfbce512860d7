package base

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"gridappliance/internal/scratch"
)

// Store is the folder that bases, and everything they are made from, are kept
// in:
//
//	debs/SHA256.deb     packages
//	tools/KEY/          unpacked tools, KEY = hash of their packages
//	trees/KEY.tar       installed systems as mmdebstrap leaves them
//	bases/ID/           finished bases
//	modules/SHA256      modules that came from servers
//	layers/KEY.module   packages on top of a base; files of a definition
//	materials/SHA.json  licences and Go modules of a layer
//	tmp/                what is being made; renamed into place when whole
//
// Nothing in it is ever changed after it got its name, so any number of
// builds may use one Store at a time, and a build that is killed leaves
// nothing but a folder in tmp, which the next that opens the store removes.
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
	for _, sub := range []string{"debs", "tools", "trees", "bases", "modules", "layers", "materials", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, fmt.Errorf("open store %s: %w", dir, err)
		}
	}
	scratch.Sweep(filepath.Join(dir, "tmp"), "*"+held, nil)
	scratch.Sweep(os.TempDir(), Working+"*", removeTree)
	return &Store{dir: dir}, nil
}

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

func (s *Store) deb(p Package) string { return s.path("debs", p.SHA256+".deb") }

// lacks returns those packages that the store does not have whole.
func (s *Store) lacks(packages []Package) []Package {
	var missing []Package
	for _, p := range packages {
		if info, err := os.Stat(s.deb(p)); err != nil || info.Size() != p.Size {
			missing = append(missing, p)
		}
	}
	return missing
}

// held ends the names of folders in tmp that a lock holds (internal/scratch).
const held = ".held"

// temp makes a folder in tmp; the caller removes it, or the next that opens
// the store when the caller is killed.
func (s *Store) temp(prefix string) (*scratch.Dir, error) {
	dir, err := scratch.MkdirTemp(s.path("tmp"), prefix+"-*"+held)
	if err != nil {
		return nil, fmt.Errorf("make a working folder: %w", err)
	}
	return dir, nil
}

// adopt makes a finished file or folder last and renames it to its place.
// When another build was quicker, its result, equal by construction, stays and
// ours goes; whole says whether what is there is one, and may be nil. A folder
// that is not, as a failing disk leaves it, makes room.
func (s *Store) adopt(from, to string, whole func(path string) bool) error {
	if err := flush(from); err != nil {
		return fmt.Errorf("keep %s: %w", to, err)
	}
	err := os.Rename(from, to)
	if err == nil {
		return nil
	}
	if !exists(to) {
		return fmt.Errorf("keep %s: %w", to, err)
	}
	if whole == nil || whole(to) {
		return os.RemoveAll(from)
	}
	broken, err := s.temp("broken")
	if err != nil {
		return err
	}
	defer broken.Remove()
	if err := os.Rename(to, broken.Join("it")); err != nil {
		return fmt.Errorf("keep %s: %w", to, err)
	}
	return os.Rename(from, to)
}

// isBase says whether a folder is a base.
func isBase(dir string) bool {
	_, err := Open(dir)
	return err == nil
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
	defer temp.Remove()
	file := temp.Join("module")
	if err := get(file); err != nil {
		return "", err
	}
	return name, s.adopt(file, name, nil)
}
