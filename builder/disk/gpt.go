package disk

import (
	"fmt"

	"github.com/diskfs/go-diskfs/backend"
	"github.com/diskfs/go-diskfs/partition/gpt"

	"gridappliance/builder/plan"
)

// addTable adds the protective MBR and both copies of the GPT, as go-diskfs
// writes them.
func (im *Image) addTable(layout plan.Layout) error {
	table := &gpt.Table{LogicalSectorSize: plan.SectorSize, PhysicalSectorSize: plan.SectorSize,
		ProtectiveMBR: true, GUID: layout.GUID.String()}
	for i, p := range layout.Partitions {
		table.Partitions = append(table.Partitions, &gpt.Partition{
			Index: i + 1, Name: p.Name, Type: gpt.Type(p.Type.String()), GUID: p.GUID.String(), Start: p.First, End: p.Last,
		})
	}
	if err := table.Write(recorder{im: im}, layout.Size); err != nil {
		return fmt.Errorf("compose partition table: %w", err)
	}
	return nil
}

// recorder keeps what is written to it as extents. Of backend.WritableFile it
// has WriteAt alone, which is all that gpt.Table.Write calls.
type recorder struct {
	backend.WritableFile
	im *Image
}

func (r recorder) WriteAt(p []byte, off int64) (int, error) {
	r.im.addBytes(off, append([]byte(nil), p...))
	return len(p), nil
}
