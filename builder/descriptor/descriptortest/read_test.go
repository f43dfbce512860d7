package descriptortest

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
)

func golden(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile("../testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestMistakes: each is refused with words about it.
func TestMistakes(t *testing.T) {
	vmx := func(s string) error { _, err := VMX(s); return err }
	xl := func(s string) error { _, err := XL(s); return err }
	vbox := func(s string) error { _, err := VBox(s); return err }
	ovf := func(s string) error { _, err := Envelope(s); return err }
	disks := func(s string) error { _, err := XLDisks(strings.Split(s, "|")); return err }
	const disk = "format=raw, vdev=xvda, access=rw, target=/x"
	tests := []struct {
		read           func(string) error
		text           string
		old, new, want string // want "" = taken
	}{
		{vmx, golden(t, "private.vmx"), "", "", ""},
		{vmx, golden(t, "private.vmx"), "memsize", "MEMSIZE = \"1\"\nmemsize", "memsize for the second time"},
		{vmx, golden(t, "private.vmx"), `"1024"`, "1024", "is no KEY"},
		{vmx, golden(t, "private.vmx"), `scsi0.present = "TRUE"`, `scsi1.present = "TRUE"`, "no scsi0.present"},
		{vmx, golden(t, "private.vmx"), "guestOS", "guest", "no guestos"},
		{vmx, "a = \"b\"", "", "", "no end"},
		{xl, golden(t, "private.pvh.cfg"), "", "", ""},
		{xl, golden(t, "private.pvh.cfg"), "vcpus", "memory", "line 6: memory for the second time"},
		{xl, golden(t, "private.pvh.cfg"), `"pvh"`, `"pvh`, "without an end"},
		{xl, golden(t, "private.pvh.cfg"), `"pvh"`, `pvh`, "no value"},
		{xl, golden(t, "private.pvh.cfg"), `"pvh"`, `"pvh" 7`, "more than a value"},
		{xl, golden(t, "private.pvh.cfg"), "]", "", "no value"},
		{xl, golden(t, "private.pvh.cfg"), `", "bridge=xenbr1"`, `" "bridge=xenbr1"`, "in a list"},
		{xl, golden(t, "private.pvh.cfg"), "vcpus = 2", "vcpus 2", "no = after vcpus"},
		{disks, disk, "", "", ""},
		{disks, disk + "|" + disk, "", "", "two disks are xvda"},
		{disks, disk, "target=/x", "target=x", "absolute"},
		{disks, disk, "access=rw", "access=w", "absolute"},
		{disks, disk, "vdev=xvda", "vdev=xvda, vdev=xvdb", "vdev=xvdb"},
		{vbox, golden(t, "private.vbox"), "", "", ""},
		{vbox, golden(t, "private.vbox"), `uuid="{c0ffee00`, `uuid="c0ffee00`, "no UUID in braces"},
		{vbox, golden(t, "private.vbox"), `<Image uuid="{c0ffee00`, `<Image uuid="{c0ffee01`, "not registered"},
		{vbox, golden(t, "private.vbox"), `<MediaRegistry>`, `<MediaRegistry x="1" x="2">`, "x twice"},
		{vbox, golden(t, "private.vbox"), `name="Floppy"`, `name="SATA"`, "two controllers"},
		{vbox, golden(t, "private.vbox"), `position="1"`, `position="2"`, "position 2 at place 1"},
		{vbox, golden(t, "private.vbox"), `type="Floppy"`, `type="DVD"`, `type "DVD"`},
		{vbox, golden(t, "private.vbox"), `MACAddress="080027`, `MACAddress="080028`, "adapter 0"},
		{vbox, golden(t, "private.vbox"), `</VirtualBox>`, ``, "unexpected EOF"},
		{vbox, golden(t, "private.vbox"), `<VirtualBox`, `<!DOCTYPE x><VirtualBox`, "document type"},
		{ovf, golden(t, "private.ovf"), "", "", ""},
		{ovf, golden(t, "private.ovf"), `ovf:fileRef="file1"`, `ovf:fileRef="file2"`, "disk"},
		{ovf, golden(t, "private.ovf"), `ovf:/disk/vmdisk1`, `ovf:/disk/vmdisk2`, "the disk is"},
		{ovf, golden(t, "private.ovf"), `<rasd:Parent>3<`, `<rasd:Parent>4<`, "the disk is"},
		{ovf, golden(t, "private.ovf"), `<rasd:InstanceID>2<`, `<rasd:InstanceID>1<`, `InstanceID "1" twice`},
		{ovf, golden(t, "private.ovf"), `<rasd:Connection>NAT<`, `<rasd:Connection>WAN<`, `"WAN", which is not described`},
		{ovf, golden(t, "private.ovf"), `<rasd:Address>0</rasd:Address>`, `<rasd:Parent>0</rasd:Parent><rasd:Address>0</rasd:Address>`, "not in order"},
		{ovf, golden(t, "private.ovf"), `<rasd:ResourceType>4<`, `<rasd:ResourceType>3<`, "parts of type 3"},
		{ovf, golden(t, "private.ovf"), `ovf:size="189097984"`, `ovf:size="x"`, "file"},
	}
	for _, tt := range tests {
		text := tt.text
		if tt.old != "" {
			if !strings.Contains(text, tt.old) {
				t.Fatalf("the text has no %s", tt.old)
			}
			text = strings.Replace(text, tt.old, tt.new, 1)
		}
		err := tt.read(text)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s -> %s: %v, want %q", tt.old, tt.new, err, tt.want)
		}
	}
}

func hash(s string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(s))) }

// file is one of an archive.
type file struct{ name, text string }

// archive packs files.
func archive(t testing.TB, format tar.Format, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Size: int64(len(f.text)), Mode: 0o644, Format: format}); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, f.text)
	}
	w.Close()
	return b.Bytes()
}

// TestOVA: order, sizes and hashes of a package.
func TestOVA(t *testing.T) {
	envelope := strings.Replace(golden(t, "private.ovf"), `ovf:size="189097984"`, `ovf:size="4"`, 1)
	ovf := file{"a.ovf", envelope}
	disk := file{"alice-private-disk1.vmdk", "disk"}
	mf := file{"a.mf", "SHA256(a.ovf)= " + hash(envelope) + "\nSHA256(alice-private-disk1.vmdk)= " + hash("disk") + "\n"}
	tests := []struct {
		name, want string
		archive    []byte
	}{
		{"good", "", archive(t, tar.FormatUSTAR, ovf, mf, disk)},
		{"order", "a.mf, format USTAR, where a file .ovf is due", archive(t, tar.FormatUSTAR, mf, ovf, disk)},
		{"format", "format PAX", archive(t, tar.FormatPAX, file{"ä.ovf", envelope}, mf, disk)},
		{"hash", "the manifest says", archive(t, tar.FormatUSTAR, ovf, mf, file{disk.name, "Disk"})},
		{"size", "the envelope says 4", archive(t, tar.FormatUSTAR, ovf, mf, file{disk.name, "disks"})},
		{"another disk", "the envelope says 0", archive(t, tar.FormatUSTAR, ovf, mf, file{"b.vmdk", "disk"})},
		{"manifest too short", "names 1 files of 2", archive(t, tar.FormatUSTAR, ovf, file{"a.mf", mf.text[:strings.IndexByte(mf.text, '\n')+1]}, disk)},
		{"after the disk", "something after the disk", archive(t, tar.FormatUSTAR, ovf, mf, disk, disk)},
		{"cut off", "EOF", archive(t, tar.FormatUSTAR, ovf, mf, disk)[:2048]},
	}
	for _, tt := range tests {
		var got bytes.Buffer
		_, err := OVA(bytes.NewReader(tt.archive), &got)
		if tt.want == "" && (err != nil || got.String() != "disk") || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

func FuzzVMX(f *testing.F) {
	f.Add(golden(f, "private.vmx"))
	f.Fuzz(func(t *testing.T, text string) {
		keys, err := VMX(text)
		if err == nil && len(keys) != strings.Count(text, "\n") {
			t.Errorf("%d keys of %d lines", len(keys), strings.Count(text, "\n"))
		}
	})
}

func FuzzXL(f *testing.F) {
	f.Add(golden(f, "private.pvh.cfg"))
	f.Add("a = [ ]\n")
	f.Fuzz(func(t *testing.T, text string) {
		if values, err := XL(text); err == nil {
			XLDisks(values["disk"])
			for name := range values {
				if _, err := XL(text + "\n" + name + " = 1\n"); err == nil {
					t.Errorf("%s twice is no error", name)
				}
			}
		}
	})
}

func FuzzEnvelope(f *testing.F) {
	f.Add(golden(f, "private.ovf"))
	f.Fuzz(func(t *testing.T, text string) { Envelope(text) })
}

func FuzzVBox(f *testing.F) {
	f.Add(golden(f, "private.vbox"))
	f.Fuzz(func(t *testing.T, text string) {
		if m, err := VBox(text); err == nil && m.Disk == "" && len(m.Media) > 1 {
			t.Errorf("two media, no disk: %+v", m)
		}
	})
}
