package main

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"gridappliance/internal/guide"
	"gridappliance/internal/netlab"
	"gridappliance/internal/sysrun"
)

// guideTest types a guide of docs/ on the machines of a world.
type guideTest struct {
	*world
	guide    *guide.Guide
	machines map[string]*station
}

func newGuide(t *testing.T, name string) *guideTest {
	t.Helper()
	needLab(t)
	g := &guideTest{world: newWorld(t, ordinary)}
	g.guide = guide.New(t, filepath.Join("../docs", name), patience, g.run)
	g.machines = map[string]*station{"master": g.master}
	return g
}

// boot puts a machine of a name and a floppy into a site, and starts it.
func (g *guideTest) boot(s *site, name, floppy string) *station {
	g.t.Helper()
	m := g.put(s, name, floppy)
	m.start()
	m.waitRunning()
	return m
}

// put is boot for a machine that is to stay off.
func (g *guideTest) put(s *site, name, floppy string) *station {
	g.t.Helper()
	s.machines++
	n := g.net.Node(name)
	s.home.Plug(n, fmt.Sprintf("%s%d/24", s.net, 9+s.machines)).Default(s.net + "1")
	m := g.machine(n, filepath.Join(g.dir, floppy))
	g.machines[name] = m
	return m
}

// reboot starts a machine again, with this floppy.
func (g *guideTest) reboot(name, floppy string) {
	g.t.Helper()
	m := g.machines[name]
	m.process.Signal(syscall.SIGTERM)
	m.process.Wait(patience)
	m.floppy = filepath.Join(g.dir, floppy)
	m.start()
}

func (g *guideTest) section(heading string) {
	g.t.Helper()
	g.guide.Section(heading)
}

var quoted = regexp.MustCompile(`"[^"]*"|\S+`)

// run runs one command where the guide says and returns what it prints.
func (g *guideTest) run(typed guide.Command) string {
	g.t.Helper()
	dir, err := tools()
	must(g.t, err)
	argv := quoted.FindAllString(typed.Line, -1)
	c := sysrun.Command{Name: argv[0], Args: argv[1:], Dir: g.dir}
	for i, arg := range c.Args {
		c.Args[i] = strings.Trim(arg, `"`)
	}
	if c.Name == "builder" || c.Name == "overlayd" {
		c.Name = filepath.Join(dir, c.Name)
	}
	var r sysrun.Result
	if typed.Where == guide.Typist {
		r, err = sysrun.Run(g.t.Context(), c)
	} else {
		m := g.machines[typed.Where]
		if m == nil {
			g.t.Fatalf("no machine %q in the guide's test", typed.Where)
		}
		if argv[0] == "overlayd" {
			c.Args = append(c.Args, "--control", m.socket())
		}
		m.Do(func() { r, err = sysrun.Run(g.t.Context(), c) })
	}
	if sysrun.NotFound(err) {
		g.t.Fatal(err)
	}
	return string(r.Stdout) + string(r.Stderr)
}

// TestGuideRevoke: a person is revoked, and comes back with another floppy.
func TestGuideRevoke(t *testing.T) {
	g := newGuide(t, "revoke.md")
	g.section("Revoke somebody")
	oak := g.boot(g.site(netlab.Home), "oak", "alice.img")
	elm := g.boot(g.site(netlab.Home), "elm", "bob.img")
	g.section("Whose machine is it?")
	g.section("Revoke, and tell the grid")
	g.section("See that it holds")
	if out, err := oak.Try("ping", "-c", "3", "-W", "1", elm.Address.String()); err == nil {
		t.Errorf("oak is revoked and reaches elm:\n%s", out)
	}
	g.reboot("oak", "alice.img")
	g.section("The old floppy does not come back")
	g.section("A new floppy for the same person")
	g.reboot("oak", "alice-2.img")
	g.section("It is back")
}

// TestGuideBehindNAT: two machines behind one router, and one behind another.
func TestGuideBehindNAT(t *testing.T) {
	g := newGuide(t, "behind-nat.md")
	g.section("A site behind one NAT")
	here := g.site(netlab.Home)
	g.boot(here, "oak", "oak.img")
	g.boot(here, "elm", "elm.img")
	g.boot(g.site(netlab.Home), "ash", "ash.img")
	g.section("What the router must let through")
	g.section("Machines of the site")
	g.section("Machines elsewhere")
}

// TestGuideLostKey: the grid's folder is lost, then its copy is too old, then
// a master's floppy is lost.
func TestGuideLostKey(t *testing.T) {
	g := newGuide(t, "lost-key.md")
	g.section("Lose a key")
	g.section("The grid's folder")
	g.boot(g.site(netlab.Home), "oak", "alice.img")
	g.section("The new machine is in")
	g.section("A copy that is too old")
	g.section("A master's floppy")
	g.reboot("master", "archer/master-1.img")
	g.section("The master is the same")
}

// TestGuideWhenWrong: a floppy with a mistake, a cable that is out, a machine
// that was switched off, a name that nobody has.
func TestGuideWhenWrong(t *testing.T) {
	g := newGuide(t, "when-wrong.md")
	g.section("The floppy")
	here := g.site(netlab.Home)
	elm := g.boot(g.site(netlab.Home), "elm", "bob.img")
	oak := g.put(here, "oak", "alice.img")
	oak.Run("ip", "link", "set", "eth0", "down")
	oak.start()
	g.section("The machine finds nobody")
	oak.Run("ip", "link", "set", "eth0", "up")
	oak.Run("ip", "route", "add", "default", "via", here.net+"1")
	g.section("The cable is in")
	elm.process.Signal(syscall.SIGKILL)
	elm.process.Wait(patience)
	g.section("Another machine does not answer")
}
