package base

import (
	"os"

	"golang.org/x/sys/unix"
)

// flush makes what was written under a path last, before it gets the name by
// which others find it. Of a folder the whole file system is flushed: one call
// instead of one for each of thousands of files.
func flush(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.IsDir() {
		return f.Sync()
	}
	return unix.Syncfs(int(f.Fd()))
}
