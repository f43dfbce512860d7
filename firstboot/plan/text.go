package plan

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// WriteText writes the plan for a person: what will stand where, with the
// contents of everything that is text and no secret.
func (p *Plan) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "role %s", p.Role)
	if p.Overlay() {
		fmt.Fprintf(&b, " of grid %s, group %s, user %s", p.Grid, p.Group, p.User)
	}
	fmt.Fprintf(&b, "\nfloppy sha256:%.12s\n", p.Floppy)
	for _, e := range p.Entries {
		b.WriteByte('\n')
		switch e.Kind {
		case KindLink:
			fmt.Fprintf(&b, "link /%s -> %s  # %s\n", e.Path, e.Target, e.Why)
		case KindDir:
			fmt.Fprintf(&b, "dir  /%s %04o owner %d  # %s\n", e.Path, e.Mode, e.UID, e.Why)
		case KindFile:
			fmt.Fprintf(&b, "file /%s %04o owner %d, %d bytes  # %s\n", e.Path, e.Mode, e.UID, len(e.Content), e.Why)
			writeContent(&b, e)
		}
	}
	for _, f := range p.Folders {
		fmt.Fprintf(&b, "\nfolder /%s, made where it is missing\n", f.Path)
	}
	for _, u := range p.Users {
		fmt.Fprintf(&b, "\nuser %s, number %d, home %s\n", u.Name, u.UID, u.Home)
	}
	for _, u := range p.Units {
		fmt.Fprintf(&b, "\nunit %s\n", u.Name)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func writeContent(b *strings.Builder, e Entry) {
	if e.Secret {
		b.WriteString("    (secret)\n")
		return
	}
	for line := range strings.Lines(string(e.Content)) {
		fmt.Fprintf(b, "    %s\n", strings.TrimSuffix(line, "\n"))
	}
}

// MarshalJSON gives an entry without the contents of secrets.
func (e Entry) MarshalJSON() ([]byte, error) {
	v := struct {
		Path    string `json:"path"`
		Kind    Kind   `json:"kind"`
		Mode    string `json:"mode,omitempty"`
		Owner   int    `json:"owner"`
		Size    int    `json:"size"`
		Hash    string `json:"hash"`
		Content string `json:"content,omitempty"`
		Target  string `json:"target,omitempty"`
		Why     string `json:"why"`
	}{Path: "/" + e.Path, Kind: e.Kind, Owner: e.UID, Size: len(e.Content), Hash: e.Hash(), Target: e.Target, Why: e.Why}
	if e.Kind != KindLink {
		v.Mode = fmt.Sprintf("%04o", e.Mode)
	}
	if !e.Secret {
		v.Content = string(e.Content)
	}
	return json.Marshal(v)
}
