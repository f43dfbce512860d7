package floppy

import (
	"archive/zip"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestZip(t *testing.T) {
	image := mustWrite(t, sample)
	a, err := Zip(image)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := Zip(bytes.Clone(image))
	if !bytes.Equal(a, b) {
		t.Error("equal images, different zips")
	}
	for name, data := range map[string][]byte{"image": image, "zip": a, "base64": EncodeCredential(a), "wrapped base64": wrap(EncodeCredential(a))} {
		got, err := Unwrap(data)
		if err != nil || !bytes.Equal(got, image) {
			t.Errorf("Unwrap %s: %v", name, err)
		}
	}
	if _, err := Zip(mustWrite(t, []File{{"NOISE", noise(50_000)}})); err == nil || !strings.Contains(err.Error(), "at most 25000") {
		t.Errorf("a floppy that does not fit: %v", err)
	}
}

// wrap breaks base64 as the program base64 does.
func wrap(text []byte) []byte {
	var b bytes.Buffer
	for len(text) > 76 {
		b.Write(text[:76])
		b.WriteString("\r\n")
		text = text[76:]
	}
	b.Write(append(text, '\n'))
	return b.Bytes()
}

// makeZip zips files as another program might.
func makeZip(t testing.TB, files map[string][]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for name, data := range files {
		e, err := w.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		e.Write(data)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestUnzipRefuses(t *testing.T) {
	image := mustWrite(t, sample)
	good, _ := Zip(image)
	damaged := bytes.Clone(good)
	damaged[200] ^= 0x55
	short := bytes.Clone(good) // says it has Size bytes and has fewer
	liar := makeZip(t, map[string][]byte{"a": make([]byte, Size+1)})
	liar = bytes.ReplaceAll(liar, []byte{0x01, 0x80, 0x16, 0x00}, []byte{0x00, 0x80, 0x16, 0x00})
	for _, c := range []struct {
		name string
		data []byte
		want string
	}{
		{"nothing", nil, "not a zip"},
		{"text", []byte("version = 1"), "not a zip"},
		{"cut off", short[:len(short)-30], "not a zip"},
		{"too long", make([]byte, MaxZip+1), "at most 25000"},
		{"no file", makeZip(t, nil), "holds 0 files"},
		{"two files", makeZip(t, map[string][]byte{"a": image, "b": nil}), "holds 2 files"},
		{"other size", makeZip(t, map[string][]byte{"a": []byte("x")}), "has 1 bytes"},
		{"bomb", makeZip(t, map[string][]byte{"a": make([]byte, 20<<20)}), "has 20971520 bytes"},
		{"longer than it says", liar, "checksum"},
		{"damaged", damaged, "zip: floppy.img"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Unzip(c.data)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestDecodeCredentialRefuses(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"nothing", "", "not base64"},
		{"not base64", "UEsDB!!!", "not base64"},
		{"no zip", base64.StdEncoding.EncodeToString([]byte("hello")), "not a zip"},
		{"too long", strings.Repeat("QUJD", 10_000), "at most"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := DecodeCredential([]byte(c.text))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

// TestSecretsDoNotPrint: however a Floppy is printed, its keys are not.
func TestSecretsDoNotPrint(t *testing.T) {
	w := newWorld(t)
	f, err := Decode("x.img", with(w.master, config("master", "")))
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("floppy", "floppy", f, "holder", f.HolderKey, "node", f.NodeKey, "issuer", f.IssuerKey)
	asJSON, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{fmt.Sprintf("%v %+v %s %x %d %q", f, f, f.HolderKey, f.NodeKey, f.IssuerKey, f.HolderKey), fmt.Sprintf("%#v %x %v", *f, *f, f.Files()), log.String(), string(asJSON)} {
		for _, key := range []Secret{f.HolderKey, f.NodeKey, f.IssuerKey} {
			for _, form := range []string{string(key[40:60]), fmt.Sprintf("%x", []byte(key[40:60])), fmt.Sprint([]byte(key[40:60])), base64.StdEncoding.EncodeToString(key[42:60])} {
				if strings.Contains(text, form) {
					t.Errorf("a key prints in %.200s", text)
				}
			}
		}
	}
}

// FuzzUnzip: no panic, and only whole images come out.
func FuzzUnzip(f *testing.F) {
	good, err := Zip(mustWrite(f, sample))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(makeZip(f, map[string][]byte{"a": []byte("x")}))
	f.Add([]byte("PK\x03\x04"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if image, err := Unzip(data); err == nil && len(image) != Size {
			t.Fatalf("%d bytes", len(image))
		}
	})
}

// FuzzDecodeCredential: no panic, and only whole images come out.
func FuzzDecodeCredential(f *testing.F) {
	good, err := Zip(mustWrite(f, sample))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(EncodeCredential(good))
	f.Add([]byte("UEsDBA=="))
	f.Add([]byte(" \n\x00=="))
	f.Fuzz(func(t *testing.T, text []byte) {
		if image, err := DecodeCredential(text); err == nil && len(image) != Size {
			t.Fatalf("%d bytes", len(image))
		}
	})
}
