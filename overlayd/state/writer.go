package state

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"gridappliance/internal/atomicfile"
	"gridappliance/overlayd/core"
)

const (
	maxStateFile = 64 << 20        // bytes that are read back
	writeRetry   = 2 * time.Second // after a disk has refused
)

// Writer writes the state folder's files off the loop, in the order they were
// given. A write that fails is tried again until it succeeds, so that nothing
// later is on disk without it; until then a witness does not vote, because its
// loop is not told.
type Writer struct {
	dir  string
	log  *slog.Logger
	done func(n uint64) // a hold and all before it are safe; called by Run's goroutine

	mu      sync.Mutex
	pending []core.Persist
	failed  error         // of the last write; nil: it succeeded
	wake    chan struct{} // holds one when there may be something pending
}

// NewWriter returns a Writer for Run. done is called by Run's goroutine with the
// number of a hold that is safe, as are all before it.
func NewWriter(dir string, log *slog.Logger, done func(uint64)) *Writer {
	return &Writer{dir: dir, log: log, done: done, wake: make(chan struct{}, 1)}
}

// Add takes a write; its bytes are the writer's.
func (w *Writer) Add(p core.Persist) {
	w.mu.Lock()
	w.pending = append(w.pending, p)
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Run writes until ctx ends, and then what is left, once.
func (w *Writer) Run(ctx context.Context) {
	for {
		select {
		case <-w.wake:
		case <-ctx.Done():
			w.flush()
			return
		}
		for !w.flush() {
			select {
			case <-time.After(writeRetry):
			case <-ctx.Done():
				return
			}
		}
	}
}

// Failed returns why what is pending is not written, or nil.
func (w *Writer) Failed() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failed
}

// flush writes what is pending and says whether all is written. Records that
// follow each other are synced together.
func (w *Writer) flush() bool {
	w.mu.Lock()
	batch := w.pending
	w.pending = nil
	w.mu.Unlock()
	for len(batch) > 0 {
		k, err := w.write(batch)
		w.mu.Lock()
		if w.failed = err; err != nil {
			w.pending = append(batch, w.pending...)
		}
		w.mu.Unlock()
		if err != nil {
			w.log.Error("state is not written, and will be tried again", "err", err, "after", writeRetry)
			return false
		}
		if last := batch[k-1]; last.File == core.HoldsFile {
			w.done(last.N)
		}
		batch = batch[k:]
	}
	return true
}

// write does the first write of a batch, and with records those that follow.
func (w *Writer) write(batch []core.Persist) (k int, err error) {
	p := batch[0]
	switch {
	case p.File == core.TrustFile:
		return 1, atomicfile.Write(filepath.Join(w.dir, TrustFile), p.Data, 0o600)
	case p.File == core.LeaseFile && len(p.Data) == 0:
		err := os.Remove(filepath.Join(w.dir, LeaseFile(p.Claim)))
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return 1, err
	case p.File == core.LeaseFile:
		return 1, atomicfile.Write(filepath.Join(w.dir, LeaseFile(p.Claim)), p.Data, 0o600)
	case !p.Append:
		return 1, atomicfile.Write(filepath.Join(w.dir, HoldsFile), p.Data, 0o600)
	}
	var data []byte
	for k < len(batch) && batch[k].File == core.HoldsFile && batch[k].Append {
		data = append(data, batch[k].Data...)
		k++
	}
	return k, appendSynced(filepath.Join(w.dir, HoldsFile), data)
}

// appendSynced appends to a file, or leaves it as it was.
func appendSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	end, err := f.Seek(0, 2)
	if err != nil {
		return err
	}
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	if err != nil {
		return errors.Join(err, f.Truncate(end))
	}
	return nil
}

// Read reads a file of the state folder; without one, it is empty.
func Read(dir, name string) ([]byte, error) {
	path := filepath.Join(dir, name)
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read state: %w", err)
	case info.Size() > maxStateFile:
		return nil, fmt.Errorf("read state %s: %d bytes, at most %d", path, info.Size(), maxStateFile)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	return data, nil
}
