package state

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gridappliance/overlayd/core"
)

// TestWriterKeepsOrder: what cannot be written is written later, before what
// came after it.
func TestWriterKeepsOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var told []uint64
		done := func() []uint64 {
			mu.Lock()
			defer mu.Unlock()
			return told
		}
		dir := t.TempDir() + "/gone"
		files := NewWriter(dir, slog.New(slog.DiscardHandler), func(n uint64) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, n)
		})
		ctx, cancel := context.WithCancel(context.Background())
		go files.Run(ctx)
		for n := range uint64(3) {
			files.Add(core.Persist{File: core.HoldsFile, N: n + 1, Append: true, Data: []byte{byte('a' + n)}})
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if err := files.Failed(); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("failed with %v", err)
		}
		if told := done(); len(told) != 0 {
			t.Fatalf("told that %v is safe, without a folder", told)
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		time.Sleep(writeRetry)
		synctest.Wait()
		got, err := Read(dir, HoldsFile)
		if told := done(); err != nil || string(got) != "abc" || len(told) == 0 || told[len(told)-1] != 3 {
			t.Errorf("file %q, %v; told %v", got, err, told)
		}
		if err := files.Failed(); err != nil {
			t.Errorf("with a folder it still fails with %v", err)
		}
		files.Add(core.Persist{File: core.HoldsFile, N: 4, Data: []byte("whole")})
		files.Add(core.Persist{File: core.HoldsFile, N: 5, Append: true, Data: []byte("+")})
		files.Add(core.Persist{File: core.LeaseFile, Claim: 7, Data: []byte("lease")})
		cancel() // what was given is written all the same
		synctest.Wait()
		got, _ = Read(dir, HoldsFile)
		saved, _ := Read(dir, LeaseFile(7))
		if string(got) != "whole+" || string(saved) != "lease" {
			t.Errorf("holds %q, lease %q", got, saved)
		}
		if s := fmt.Sprint(done()); !strings.HasSuffix(s, "4 5]") {
			t.Errorf("told %s", s)
		}
	})
}
