package floppy

import (
	"bytes"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"gridappliance/internal/diag"
)

// maxText is how long a text file of a floppy may be, in bytes. The longest
// that anyone needs is a tenth of it.
const maxText = 64 << 10

// normalText returns text without what editors add: the byte order mark of
// UTF-8, and the CR of line ends. What is no UTF-8 text at all is reported.
func normalText(file string, text []byte) ([]byte, diag.List) {
	one := func(message, remedy string) diag.List {
		return diag.List{{File: file, Message: message, Remedy: remedy}}
	}
	switch {
	case len(text) == 0:
		return nil, one("is empty", "delete it, or fill it in")
	case len(text) > maxText:
		return nil, one(fmt.Sprintf("has %d bytes, at most %d make sense", len(text), maxText), "is it another file by mistake?")
	case bytes.HasPrefix(text, []byte("\xFF\xFE")), bytes.HasPrefix(text, []byte("\xFE\xFF")):
		return nil, one("is saved as UTF-16", "save it as UTF-8")
	}
	text = bytes.TrimPrefix(text, []byte("\xEF\xBB\xBF"))
	text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, one("is empty", "delete it, or fill it in")
	}
	if at := invalidUTF8(text); at >= 0 {
		p := position(file, text, at)
		p.Message, p.Remedy = fmt.Sprintf("byte %02X is not UTF-8", text[at]), "save it as UTF-8"
		return nil, diag.List{p}
	}
	return text, nil
}

// invalidUTF8 returns the offset of the first byte that is no UTF-8, or -1.
func invalidUTF8(text []byte) int {
	for at := 0; at < len(text); {
		r, n := utf8.DecodeRune(text[at:])
		if r == utf8.RuneError && n == 1 {
			return at
		}
		at += n
	}
	return -1
}

// maxExcerpt is how much of an offending line is shown, in bytes.
const maxExcerpt = 160

// position returns a Problem that points at an offset of a text, with the
// line that stands there.
func position(file string, text []byte, offset int) diag.Problem {
	offset = min(max(offset, 0), len(text))
	start := bytes.LastIndexByte(text[:offset], '\n') + 1
	end := len(text)
	if n := bytes.IndexByte(text[start:], '\n'); n >= 0 {
		end = start + n
	}
	line := text[start:end]
	if len(line) > maxExcerpt {
		line = line[:maxExcerpt]
	}
	return diag.Problem{
		File:    file,
		Line:    bytes.Count(text[:start], []byte("\n")) + 1,
		Column:  offset - start + 1,
		Excerpt: harmless(line),
	}
}

// harmless returns line with each byte of what a terminal could take for a
// command replaced by '?', so that columns stay where they are.
func harmless(line []byte) string {
	var b strings.Builder
	for len(line) > 0 {
		r, n := utf8.DecodeRune(line)
		if r == '\t' || r != utf8.RuneError && unicode.IsPrint(r) {
			b.Write(line[:n])
		} else {
			b.WriteString(strings.Repeat("?", n))
		}
		line = line[n:]
	}
	return b.String()
}

// inFile joins the name of a floppy and of a file on it.
func inFile(floppy, file string) string {
	if floppy == "" || file == "" {
		return floppy + file
	}
	return floppy + "/" + file
}
