package disk

import (
	_ "embed"
	"encoding/binary"
	"fmt"
	"os"

	"gridappliance/builder/plan"
)

// grubConfig is the menu both firmwares read; it has one entry and no wait.
//
//go:embed grub.cfg
var grubConfig []byte

// Places that grub-install would patch (GRUB 2.12, include/grub/i386/pc/boot.h
// and grub-core/boot/i386/pc/{boot,diskboot}.S):
//
//	boot.img  0x05c  8 bytes  LBA of the core image's first sector
//	          0x066  2 bytes  jump taken when the BIOS gave a doubtful drive
//	                          number; two NOPs trust the BIOS
//	core.img  0x1f4  8 bytes  LBA of the core image's second sector, in the
//	                          first entry of its block list
//
// The block list's entry is { start uint64, length uint16, segment uint16 };
// grub-mkimage has filled in length and segment, and the core image lies in
// one piece.
const (
	bootCodeSize   = 440 // bytes of LBA 0 before the disk signature
	bootKernelLBA  = 0x5c
	bootDriveCheck = 0x66
	coreNextLBA    = 0x1f4
)

// addGRUB adds boot code and core image for BIOS.
func (im *Image) addGRUB(layout plan.Layout, c Contents) error {
	bios := layout.Partition("bios")
	boot, err := os.ReadFile(c.BootImage)
	if err != nil {
		return fmt.Errorf("compose boot sector: %w", err)
	}
	core, err := os.ReadFile(c.CoreImage)
	if err != nil {
		return fmt.Errorf("compose bios: %w", err)
	}
	if len(boot) != plan.SectorSize {
		return fmt.Errorf("compose boot sector: %s has %d bytes, not %d", c.BootImage, len(boot), plan.SectorSize)
	}
	if len(core) <= plan.SectorSize || int64(len(core)) > bios.Size() {
		return fmt.Errorf("compose bios: %s has %d bytes, the partition %d", c.CoreImage, len(core), bios.Size())
	}
	binary.LittleEndian.PutUint64(boot[bootKernelLBA:], bios.First)
	boot[bootDriveCheck], boot[bootDriveCheck+1] = 0x90, 0x90
	binary.LittleEndian.PutUint64(core[coreNextLBA:], bios.First+1)
	im.addBytes(0, boot[:bootCodeSize])
	im.addBytes(bios.Offset(), core)
	return nil
}

// addESP adds the EFI system partition, which GRUB for BIOS reads too.
func (im *Image) addESP(layout plan.Layout, c Contents) error {
	return im.addFAT32(layout.Partition("esp"), []fatFile{
		{name: "vmlinuz", path: c.Kernel},
		{name: "initrd.img", path: c.Initrd},
		{name: "grub/grub.cfg", data: grubConfig},
		{name: "EFI/BOOT/BOOTX64.EFI", path: c.EFIImage},
	})
}
