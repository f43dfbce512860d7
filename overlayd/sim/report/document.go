package report

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// What stands between these lines of a document is generated.
const (
	startMark = "<!-- written by make sim -->\n"
	endMark   = "<!-- end of what make sim writes -->\n"
)

// Write draws the plots into the folder of a document's name and writes the
// tables between the marks of the document. It refuses results that lack a row.
func (rs Results) Write(document string) error {
	if lacking := rs.Missing(); len(lacking) > 0 {
		return fmt.Errorf("write %s: not run: %s", document, strings.Join(lacking, ", "))
	}
	text, err := os.ReadFile(document)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(text), startMark)
	_, after, ends := strings.Cut(rest, endMark)
	if !ok || !ends {
		return fmt.Errorf("write %s: want the marks %q and %q", document, startMark, endMark)
	}
	pictures := strings.TrimSuffix(document, filepath.Ext(document))
	if err := os.MkdirAll(pictures, 0o755); err != nil {
		return err
	}
	if err := rs.Draw(pictures); err != nil {
		return err
	}
	return os.WriteFile(document, []byte(before+startMark+rs.generated(filepath.Base(pictures))+endMark+after), 0o644)
}

// generated is the tables and the plots.
func (rs Results) generated(pictures string) string {
	var b strings.Builder
	n := rs.most()
	fmt.Fprintf(&b, "\n%d machines and %d bootstrap nodes where nothing else is said; seed %d.\n\n", n, n/20, rs["nat"].Seed)
	b.WriteString("### Beside the goals and published figures\n\n" + rs.Table())
	b.WriteString("\n### Ring code without datagrams\n\n" + rs.Coarse())
	b.WriteString("\n### What each run cost\n\n" + rs.Costs())
	b.WriteString("\n### Plots\n")
	for _, p := range plots {
		fmt.Fprintf(&b, "\n%s:\n\n![%s](%s/%s)\n", p.caption, p.caption, pictures, p.file)
	}
	b.WriteString("\n")
	return b.String()
}
