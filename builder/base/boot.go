package base

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"gridappliance/internal/sysrun"
)

// GRUB's modules. The kernel, initrd and grub.cfg lie on the EFI system
// partition, FAT, for both firmwares.
var (
	grubCommon = []string{"part_gpt", "fat", "normal", "linux", "boot", "echo", "serial", "terminal", "search",
		"search_label", "configfile", "test", "all_video", "gfxterm"}
	grubBIOS = []string{"biosdisk"}
	grubEFI  = []string{"efi_gop", "efifwsetup"}
)

// makeGRUB writes into dir
//
//	grub-boot.img     512 bytes, the BIOS boot sector; the assembler patches in where the core lies
//	grub-core.img     BIOS core; looks for /grub/grub.cfg on the second GPT partition
//	grub-bootx64.efi  UEFI; looks for /grub/grub.cfg on the partition it was loaded from
func makeGRUB(ctx context.Context, t *tools, dir string, epoch int64) error {
	lib := filepath.Join(t.dir, "usr/lib/grub")
	boot, err := os.ReadFile(filepath.Join(lib, "i386-pc/boot.img"))
	if err != nil {
		return fmt.Errorf("make the boot loader: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, GRUBBoot), boot, 0o644); err != nil {
		return err
	}
	for _, f := range []struct {
		name, format, prefix string
		modules              []string
	}{
		{GRUBCore, "i386-pc", "(,gpt2)/grub", grubBIOS},
		{GRUBEFI, "x86_64-efi", "/grub", grubEFI},
	} {
		args := []string{"-d", filepath.Join(lib, f.format), "-O", f.format, "-p", f.prefix, "-o", filepath.Join(dir, f.name)}
		c := t.command("usr/bin/grub-mkimage", append(append(args, grubCommon...), f.modules...)...)
		c.Env = t.environ(epoch)
		if _, err := sysrun.Run(ctx, c); err != nil {
			return fmt.Errorf("make the boot loader: %w", err)
		}
	}
	return nil
}

// The user partition's template.
const (
	userSize = 512 << 20 // bytes; /init of the initrd grows it to the disk
	// One UUID for all machines: nothing refers to it, the partition is found
	// by its name on the disk that holds the base.
	userUUID = "6f1d0b3e-5a0c-4f6e-9d3a-67726964757a"
)

// makeUser writes the empty user partition: ext4 with a journal, sparse, with
// the trees changes/ (upper layer), work/ (overlayfs's own) and state/.
func makeUser(ctx context.Context, t *tools, dir string, epoch time.Time) error {
	c := t.command("usr/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-L", "griduser", "-U", userUUID,
		"-O", "^orphan_file,metadata_csum,64bit", "-m", "1",
		"-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0,hash_seed="+userUUID,
		filepath.Join(dir, User), fmt.Sprintf("%dk", userSize>>10))
	c.Env = t.environ(epoch.Unix())
	if _, err := sysrun.Run(ctx, c); err != nil {
		return fmt.Errorf("make the user partition: %w", err)
	}
	// Not by mke2fs -d, which would give them the caller as their owner.
	script := fmt.Sprintf("set_current_time @%d\nmkdir changes\nmkdir work\nmkdir state\n"+
		"set_inode_field work mode 040700\nset_inode_field state mode 040700\n", epoch.Unix())
	c = t.command("usr/sbin/debugfs", "-w", "-f", "-", filepath.Join(dir, User))
	c.Env, c.Stdin = t.environ(epoch.Unix()), strings.NewReader(script)
	if _, err := sysrun.Run(ctx, c); err != nil {
		return fmt.Errorf("make the user partition: %w", err)
	}
	return nil
}

// makeSquashfs packs the image. The tar goes to mksquashfs through a pipe.
func makeSquashfs(ctx context.Context, t *tools, img *image, name string, epoch time.Time) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	wrote := make(chan error, 1)
	go func() {
		err := img.write(w, epoch)
		w.Close()
		wrote <- err
	}()
	// Exports stay on: overlayfs keeps inode numbers over a copy-up by them.
	c := t.command("usr/bin/mksquashfs", "-", name, "-tar", "-noappend", "-quiet", "-no-progress",
		"-comp", "zstd", "-Xcompression-level", "3", "-b", "128K",
		"-root-mode", "0755", "-root-uid", "0", "-root-gid", "0", "-root-time", strconv.FormatInt(epoch.Unix(), 10))
	c.Env, c.Stdin = t.environ(epoch.Unix()), r
	_, runErr := sysrun.Run(ctx, c)
	r.Close() // a writer that nobody reads from ends
	if err := <-wrote; err != nil && runErr == nil {
		return err
	}
	if runErr != nil {
		return fmt.Errorf("pack the image: %w", runErr)
	}
	return nil
}
