package repocheck

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "gridappliance/"

// rule forbids an import. From and to are path patterns relative to the
// module's root, matched against a package or any folder above it.
type rule struct {
	from, to string
	except   []string // packages that may all the same
	reason   string
}

var parts = []string{"builder", "firstboot", "overlayd", "condorconf", "grid", "portal"}

// rules is the dependency direction of ARCHITECTURE.md. partRules adds that
// parts do not import each other.
var rules = []rule{
	{from: "floppy", to: "builder", reason: "floppy is the contract all parts share, so it imports none of them"},
	{from: "floppy", to: "firstboot", reason: "floppy is the contract all parts share, so it imports none of them"},
	{from: "floppy", to: "overlayd", reason: "floppy is the contract all parts share, so it imports none of them"},
	{from: "floppy", to: "condorconf", reason: "floppy is the contract all parts share, so it imports none of them"},
	{from: "credential", to: "floppy", reason: "a floppy carries credentials, never the other way round"},
	{from: "credential", to: "overlayd", reason: "credential is what all parts share, so it imports none of them"},
	{from: "internal", to: "builder", except: []string{"internal/vmlab"}, reason: "internal packages serve the parts"},
	{from: "internal", to: "firstboot", reason: "internal packages serve the parts"},
	{from: "internal", to: "overlayd", reason: "internal packages serve the parts"},
	{from: "internal", to: "condorconf", reason: "internal packages serve the parts"},
	{from: "overlayd/control", to: "overlayd/node", reason: "the socket does not know the daemon"},
	{from: "overlayd/device", to: "overlayd/node", reason: "the device does not know the daemon"},
	{from: "overlayd/datapath", to: "overlayd/node", reason: "the data path asks nobody"},
	{from: "overlayd/datapath", to: "overlayd/core", reason: "the data path knows a Table and no protocol"},
	{from: "overlayd/datapath", to: "overlayd/link", reason: "the data path knows a Table and no protocol"},
	{from: "overlayd/issuer", to: "overlayd", except: []string{"overlayd/control"}, reason: "the issuing service asks the daemon over its socket"},
	{from: "overlayd/nodeid", to: "overlayd", reason: "nodeid is a leaf"},
	{from: "overlayd/piece", to: "overlayd", except: []string{"overlayd/nodeid", "overlayd/wire"}, reason: "piece serves dht and gossip"},
	{from: "overlayd/dht", to: "overlayd", except: []string{"overlayd/nodeid", "overlayd/wire", "overlayd/piece"}, reason: "core joins the machines"},
	{from: "overlayd/stream", to: "overlayd", except: []string{"overlayd/nodeid", "overlayd/session", "overlayd/transport"}, reason: "stream carries datagrams and knows no protocol"},
	{from: "overlayd/underlay", to: "overlayd", reason: "underlay is a leaf"},
	{from: "overlayd/portmap", to: "overlayd", reason: "portmap is a leaf"},
	{from: "overlayd/discover", to: "overlayd/node", reason: "who finds contacts does not know the daemon"},
	{from: "overlayd/bootstrap", to: "overlayd", except: []string{"overlayd/nodeid", "overlayd/wire", "overlayd/session"}, reason: "a bootstrap is no node"},
	{from: "overlayd/gossip", to: "overlayd", except: []string{"overlayd/nodeid", "overlayd/wire", "overlayd/piece"}, reason: "core joins the machines"},
	{from: "overlayd/sim", to: "overlayd", except: []string{"overlayd/nodeid", "overlayd/sim/scenario", "overlayd/sim/standin", "overlayd/sim/watch"}, reason: "the simulated network knows no protocol"},
}

// pure packages are handed events and the time and answer with values.
var pure = []string{"builder/plan", "builder/descriptor", "firstboot/plan", "firstboot/watch", "condorconf/pool", "condorconf/knob",
	"overlayd/nodeid", "overlayd/wire", "overlayd/core", "overlayd/ring", "overlayd/piece", "overlayd/dht", "overlayd/gossip",
	"overlayd/session", "overlayd/link", "overlayd/relay", "overlayd/lease", "overlayd/packet", "overlayd/vnet",
	"overlayd/bootstrap"}

// impure names what a pure package may not import.
var impure = []string{"os", "os/exec", "net", "syscall", "gridappliance/internal/sysrun"}

// testOnly packages are imported by tests only.
var testOnly = []string{"internal/need", "internal/guide", "internal/netlab", "internal/vmlab", "internal/repocheck", "internal/manual", "internal/figures", "builder/disk/disktest", "builder/descriptor/descriptortest", "overlayd/control/controltest", "overlayd/sim", "overlayd/sim/scenario", "overlayd/sim/standin", "overlayd/sim/report", "overlayd/sim/watch", "overlayd/bench"}

// pkg is one package folder of the repository.
type pkg struct {
	dir     string // relative to the root, slash-separated
	doc     bool   // has a package comment
	imports map[string]bool
	time    bool // calls time.Now or time.Sleep outside tests
}

func TestEveryPackageHasAPackageComment(t *testing.T) {
	for _, p := range packages(t) {
		if !p.doc {
			t.Errorf("%s: no package comment", p.dir)
		}
	}
}

func TestArchitectureNamesEveryPackage(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root(t), "ARCHITECTURE.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range packages(t) {
		if !strings.Contains(string(text), "`"+p.dir+"`") {
			t.Errorf("ARCHITECTURE.md has no line for %s", p.dir)
		}
	}
	if n := strings.Count(string(text), "\n"); n > 200 {
		t.Errorf("ARCHITECTURE.md has %d lines, at most 200 are read", n)
	}
}

func TestImportsPointOneWay(t *testing.T) {
	all := append(partRules(), rules...)
	for _, p := range packages(t) {
		for imported := range p.imports {
			to, ours := strings.CutPrefix(imported, module)
			if !ours {
				continue
			}
			for _, r := range all {
				if under(p.dir, r.from) && under(to, r.to) && !contains(r.except, p.dir) && !contains(r.except, to) {
					t.Errorf("%s imports %s: %s", p.dir, to, r.reason)
				}
			}
			if contains(testOnly, to) && !contains(testOnly, p.dir) {
				t.Errorf("%s imports %s outside its tests", p.dir, to)
			}
		}
	}
}

func TestPurePackagesTouchNoMachine(t *testing.T) {
	for _, p := range packages(t) {
		if !contains(pure, p.dir) {
			continue
		}
		for _, i := range impure {
			if p.imports[i] {
				t.Errorf("%s imports %s: it must be handed what it needs", p.dir, i)
			}
		}
		if p.time {
			t.Errorf("%s reads the clock: it must be handed the time", p.dir)
		}
	}
}

func TestProgramsRunOnlyThroughSysrun(t *testing.T) {
	for _, p := range packages(t) {
		if p.imports["os/exec"] && p.dir != "internal/sysrun" {
			t.Errorf("%s imports os/exec: run programs through internal/sysrun", p.dir)
		}
	}
}

func partRules() []rule {
	var rs []rule
	for _, from := range parts {
		for _, to := range parts {
			if from == to {
				continue
			}
			rs = append(rs, rule{from: from, to: to,
				except: []string{"overlayd/control", "firstboot/units"},
				reason: "parts never import parts, except overlayd/control as a client and firstboot/units as data"})
		}
	}
	return rs
}

// packages reads every package of the repository, without its tests.
func packages(t *testing.T) []pkg {
	t.Helper()
	byDir := map[string]*pkg{}
	root := root(t)
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if n := d.Name(); n == "testdata" || n == ".git" || n == "bin" || n == "out" || n == "demo" {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return nil
		}
		rel, _ := filepath.Rel(root, file)
		dir := path.Dir(filepath.ToSlash(rel))
		p := byDir[dir]
		if p == nil {
			p = &pkg{dir: dir, imports: map[string]bool{}}
			byDir[dir] = p
		}
		return p.read(file)
	})
	if err != nil {
		t.Fatal(err)
	}
	var list []pkg
	for _, p := range byDir {
		list = append(list, *p)
	}
	if len(list) < 10 {
		t.Fatalf("found %d packages: not looking at the repository", len(list))
	}
	return list
}

func (p *pkg) read(file string) error {
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
	if err != nil {
		return err
	}
	if f.Doc != nil {
		p.doc = true
	}
	for _, i := range f.Imports {
		name, _ := strconv.Unquote(i.Path.Value)
		p.imports[name] = true
	}
	ast.Inspect(f, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := s.X.(*ast.Ident); ok && x.Name == "time" && (s.Sel.Name == "Now" || s.Sel.Name == "Sleep") {
				p.time = true
			}
		}
		return true
	})
	return nil
}

// under says whether dir is folder or lies below it.
func under(dir, folder string) bool { return dir == folder || strings.HasPrefix(dir, folder+"/") }

func contains(list []string, s string) bool {
	for _, e := range list {
		if e == s {
			return true
		}
	}
	return false
}
