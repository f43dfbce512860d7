package disk

import (
	"bytes"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestScanRanges: nothing but zeros is left out, and a file of blocks with
// holes between them is read as the system reports it.
func TestScanRanges(t *testing.T) {
	r := rand.New(rand.NewSource(7))
	for range 20 {
		content := make([]byte, r.Intn(40*scanBlock))
		for at := 0; at < len(content); at += scanBlock {
			if r.Intn(2) == 0 {
				content[min(at+r.Intn(scanBlock), len(content)-1)] = 1
			}
		}
		ranges, err := scanRanges(bytes.NewReader(content), int64(len(content)))
		if err != nil {
			t.Fatal(err)
		}
		rebuilt := make([]byte, len(content))
		end := int64(-1)
		for _, d := range ranges {
			if d.Start <= end || d.End <= d.Start {
				t.Fatalf("range %v after one that ends at %d", d, end)
			}
			end = d.End
			copy(rebuilt[d.Start:d.End], content[d.Start:d.End])
		}
		if !bytes.Equal(rebuilt, content) {
			t.Fatal("a range with content is left out")
		}
	}
}

func TestScanRangesFindsWhatTheSystemKnows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sparse")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block := []byte(strings.Repeat("x", scanBlock))
	for _, at := range []int64{0, 3, 4, 40} {
		if _, err := f.WriteAt(block, at*scanBlock); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(100 * scanBlock); err != nil {
		t.Fatal(err)
	}
	scanned, err := scanRanges(f, 100*scanBlock)
	if err != nil {
		t.Fatal(err)
	}
	known, err := Ranges(f, 100*scanBlock)
	if err != nil {
		t.Fatal(err)
	}
	if len(known) == 1 && known[0].End == 100*scanBlock {
		t.Skip("this file system does not know holes")
	}
	if len(scanned) != len(known) {
		t.Fatalf("scanned %v, the system says %v", scanned, known)
	}
	for i := range known {
		if scanned[i] != known[i] {
			t.Errorf("scanned %v, the system says %v", scanned[i], known[i])
		}
	}
	if _, err := scanRanges(f, 101*scanBlock); err == nil {
		t.Error("a file that ends early is no error")
	}
}
