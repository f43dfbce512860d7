package base

import (
	"bufio"
	"bytes"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

// source is one archive of packages: a mirror's root and a suite on it.
type source struct {
	URI        string // without trailing slash
	Suite      string
	Components []string
}

// parseSourcesList reads the one-line form of sources.list(5). Lines that are
// not understood are skipped: the file is the host's, not ours to judge.
func parseSourcesList(text []byte) []source {
	var out []source
	for sc := bufio.NewScanner(bytes.NewReader(text)); sc.Scan(); {
		line, _, _ := strings.Cut(sc.Text(), "#")
		if i, j := strings.Index(line, "["), strings.Index(line, "]"); i >= 0 && j > i {
			line = line[:i] + line[j+1:] // options in brackets
		}
		f := strings.Fields(line)
		if len(f) >= 3 && f[0] == "deb" {
			out = append(out, source{URI: strings.TrimRight(f[1], "/"), Suite: f[2], Components: f[3:]})
		}
	}
	return out
}

// parseSourcesDeb822 reads the deb822 form of sources.list(5).
func parseSourcesDeb822(text []byte) []source {
	var out []source
	stanza := map[string]string{}
	flush := func() {
		enabled := strings.ToLower(stanza["enabled"])
		binary := false
		for _, t := range strings.Fields(stanza["types"]) {
			binary = binary || t == "deb"
		}
		if binary && enabled != "no" && enabled != "false" {
			for _, uri := range strings.Fields(stanza["uris"]) {
				for _, suite := range strings.Fields(stanza["suites"]) {
					out = append(out, source{strings.TrimRight(uri, "/"), suite, strings.Fields(stanza["components"])})
				}
			}
		}
		stanza = map[string]string{}
	}
	key := ""
	for sc := bufio.NewScanner(bytes.NewReader(text)); sc.Scan(); {
		line := sc.Text()
		switch {
		case strings.TrimSpace(line) == "":
			flush()
		case strings.HasPrefix(line, "#"):
		case line[0] == ' ' || line[0] == '\t':
			stanza[key] += " " + strings.TrimSpace(line)
		default:
			k, v, ok := strings.Cut(line, ":")
			if ok {
				key = strings.ToLower(strings.TrimSpace(k))
				stanza[key] = strings.TrimSpace(v)
			}
		}
	}
	flush()
	return out
}

// hostSources returns what the apt of the machine below root takes packages
// from, in no particular order. Files that cannot be read count as empty.
func hostSources(root string) []source {
	var out []source
	read := func(parse func([]byte) []source, pattern string) {
		names, _ := filepath.Glob(filepath.Join(root, pattern))
		for _, n := range names {
			text, err := os.ReadFile(n)
			if err == nil {
				out = append(out, parse(text)...)
			}
		}
	}
	read(parseSourcesList, "etc/apt/sources.list")
	read(parseSourcesList, "etc/apt/sources.list.d/*.list")
	read(parseSourcesDeb822, "etc/apt/sources.list.d/*.sources")
	return out
}

// debianSources carries the host's Debian mirrors over to suite: a host entry
// for its own release becomes one for suite, and likewise -updates and
// -security. codename is the host's release; "" when the host is not Debian,
// which gives nothing.
func debianSources(host []source, codename, suite string) []source {
	if codename == "" {
		return nil
	}
	var out []source
	seen := map[string]bool{}
	for _, h := range host {
		suffix, ok := strings.CutPrefix(h.Suite, codename)
		if !ok || (suffix != "" && suffix != "-updates" && suffix != "-security") {
			continue
		}
		main := false
		for _, c := range h.Components {
			main = main || c == "main"
		}
		s := source{URI: h.URI, Suite: suite + suffix, Components: []string{"main"}}
		if k := s.URI + " " + s.Suite; main && !seen[k] {
			seen[k] = true
			out = append(out, s)
		}
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].Suite < out[j].Suite })
	if len(out) > 0 && out[0].Suite != suite {
		return nil // updates alone are no system
	}
	return out
}

// mirrorSources returns the archives of a mirror named by the user: suite,
// and suite-updates and suite-security, which need not exist there.
func mirrorSources(uri, suite string) []source {
	uri = strings.TrimRight(uri, "/")
	main := []string{"main"}
	return []source{
		{uri, suite, main}, {uri, suite + "-updates", main},
		{uri, suite + "-security", main}, {uri + "-security", suite + "-security", main},
	}
}

// debianCodename returns the release of the Debian below root, or "" when it
// is another system.
func debianCodename(root string) string {
	text, err := os.ReadFile(filepath.Join(root, "etc/os-release"))
	if err != nil {
		return ""
	}
	values := map[string]string{}
	for _, line := range strings.Split(string(text), "\n") {
		k, v, _ := strings.Cut(line, "=")
		values[k] = strings.Trim(v, `"'`)
	}
	if values["ID"] != "debian" {
		return ""
	}
	return values["VERSION_CODENAME"]
}
