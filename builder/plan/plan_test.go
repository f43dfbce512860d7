package plan

import (
	"flag"
	"os"
	"path"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gridappliance/builder/spec"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func inputs() Inputs {
	return Inputs{BaseID: "0123456789abcdef", Layers: []Layer{{Name: "gridbase", Size: 199<<20 + 4096}}, UserSize: 1 << 30,
		Kernel: 12_179_392, Initrd: 3_553_622, Boot: 921_326}
}

func TestGolden(t *testing.T) {
	private := inputs()
	private.Floppy = true
	layered := inputs()
	layered.Layers = append(layered.Layers, Layer{Name: "gridglue", Size: 1}, Layer{Name: "gridmod1", Size: 30 << 20, What: "module cad 1"})
	layered.Ingredients = []Ingredient{{Name: "base", What: "0123456789abcdef, trixie of 2026-11-24", Where: "in the store"},
		{Name: "lock", What: "site.lock, 12 packages", Where: "written by a build"},
		{Name: "gridmod1", What: "module cad 1", Size: 30 << 20, Guess: true, Where: "made by a build"},
		{Name: "gridglue", What: "what joins the layers", Size: 1, Where: "made by each build"}}
	tests := []struct {
		name string
		d    spec.Definition
		in   Inputs
	}{
		{"default", spec.Definition{}, inputs()},
		{"private", spec.Definition{Name: "alice", Targets: spec.Targets(), Disk: 20 << 30}, private},
		{"layers", spec.Definition{Targets: []spec.Target{spec.Raw}}, layered},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.d.ApplyDefaults()
			p, err := New(&tt.d, tt.in)
			if err != nil {
				t.Fatal(err)
			}
			file := "testdata/" + tt.name + ".golden"
			if *update {
				if err := os.WriteFile(file, []byte(p.String()), 0o666); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), p.String()); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			checkLayout(t, p.Layout)
		})
	}
}

// checkLayout states what every layout must keep.
func checkLayout(t *testing.T, l Layout) {
	t.Helper()
	end := uint64(gptSize / SectorSize)
	for _, p := range l.Partitions {
		if p.First < end || p.Last < p.First || p.First%2048 != 0 {
			t.Errorf("%s: %d to %d after %d", p.Name, p.First, p.Last, end)
		}
		end = p.Last + 1
	}
	if limit := uint64(l.Size/SectorSize) - 33; end > limit {
		t.Errorf("the last partition ends at %d, in the backup GPT at %d", end, limit)
	}
}

// TestTooSmall: the size the message names is the smallest that works.
func TestTooSmall(t *testing.T) {
	d := spec.Definition{Disk: 1 << 30}
	d.ApplyDefaults()
	_, err := New(&d, inputs())
	if err == nil || !strings.Contains(err.Error(), "needs 1293MiB") {
		t.Fatalf("error = %v", err)
	}
	d.Disk = 1293 << 20
	p, err := New(&d, inputs())
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Layout.Partition("griduser").Size(); got != inputs().UserSize {
		t.Errorf("griduser has %d bytes, its template %d", got, inputs().UserSize)
	}
	d.Disk -= 1 << 20
	if _, err := New(&d, inputs()); err == nil {
		t.Error("a disk one mebibyte smaller is accepted")
	}
}

// TestWritten: the sizes are those of the forms, and estimates say so.
func TestWritten(t *testing.T) {
	in := inputs()
	in.Floppy = true
	d := spec.Definition{Name: "alice", Targets: spec.Targets()}
	d.ApplyDefaults()
	p, err := New(&d, in)
	if err != nil {
		t.Fatal(err)
	}
	layer, exact := in.Layers[0].Size, map[string]int64{".raw": int64(d.Disk), ".img": 1_474_560, ".flp": 1_474_560, ".vmlinuz": in.Kernel, ".initrd": in.Initrd}
	for _, o := range p.Outputs {
		for _, f := range p.Written(o) {
			want, isExact := exact[path.Ext(f.Path)]
			switch path.Ext(f.Path) {
			case ".qcow2", ".vmdk", ".vdi", ".ova":
				if !f.About || f.Size < layer+in.Kernel || f.Size > layer+in.Kernel+20<<20 {
					t.Errorf("%+v", f)
				}
			default:
				if f.About == isExact || isExact && f.Size != want || f.Held > layer+in.Kernel+20<<20 {
					t.Errorf("%+v", f)
				}
			}
		}
	}
}

func TestGUIDs(t *testing.T) {
	d := spec.Definition{}
	d.ApplyDefaults()
	a, _ := New(&d, inputs())
	other := inputs()
	other.BaseID = "other"
	b, _ := New(&d, other)
	seen := map[string]bool{}
	for _, p := range []*Plan{a, b} {
		for _, part := range append(p.Layout.Partitions, Partition{GUID: p.Layout.GUID}) {
			if seen[part.GUID.String()] {
				t.Errorf("GUID %v twice", part.GUID)
			}
			seen[part.GUID.String()] = true
		}
	}
}
