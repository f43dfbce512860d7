package report

import (
	"fmt"
	"path/filepath"
	"strings"

	"gridappliance/internal/figures"
)

// Write draws the plots into the folder of a document's name and writes the
// tables between the marks of the document. It refuses results that lack a row.
func (rs Results) Write(document string) error {
	if lacking := rs.Missing(); len(lacking) > 0 {
		return fmt.Errorf("write %s: not run: %s", document, strings.Join(lacking, ", "))
	}
	pictures, err := figures.Pictures(document)
	if err != nil {
		return err
	}
	if err := figures.Write(document, "sim", rs.generated(filepath.Base(pictures))); err != nil {
		return err
	}
	return rs.Draw(pictures)
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
