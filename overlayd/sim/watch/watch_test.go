package watch

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"gridappliance/overlayd/sim/report"
)

// committed is the page in the documents.
const committed = "../../../docs/simulation/watch.html"

// parse reads the recording out of a page.
func parse(t *testing.T, b []byte) (r Recording) {
	t.Helper()
	_, rest, ok := bytes.Cut(b, []byte(`id="recording">`))
	data, _, ends := bytes.Cut(rest, []byte("</script>"))
	if !ok || !ends {
		t.Fatal("the page has no recording")
	}
	if err := json.Unmarshal(data, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// played is what the events of a recording lead to.
type played struct {
	state        []int64 // of each node, the last of started to died
	links        map[[2]int64]int64
	asked, right int
	last         int64
}

// play plays a recording as the page does, and checks each event.
func play(t *testing.T, r Recording) (p played) {
	t.Helper()
	extra := []int{1, 1, 1, 1, 3, 2, 5}
	p.links = map[[2]int64]int64{}
	p.state = make([]int64, len(r.Nodes))
	for i := range p.state {
		p.state[i] = -1
	}
	runs := func(n int64) bool {
		return n >= 0 && n < int64(len(p.state)) && p.state[n] >= started && p.state[n] != died
	}
	for i := 0; i < len(r.Events); {
		since, kind := r.Events[i], r.Events[i+1]
		if since < 0 || kind < started || kind > looked || i+2+extra[kind] > len(r.Events) {
			t.Fatalf("number %d: no event", i)
		}
		x := r.Events[i+2 : i+2+extra[kind]]
		p.last += since
		i += 2 + extra[kind]
		if kind != started && !runs(x[0]) {
			t.Fatalf("number %d: kind %d of node %d, which does not run", i, kind, x[0])
		}
		switch kind {
		case started, joined, parted:
			p.state[x[0]] = kind
		case died:
			p.state[x[0]] = died
			for l := range p.links {
				if l[0] == x[0] || l[1] == x[0] {
					delete(p.links, l)
				}
			}
		case connected:
			if !runs(x[1]) || x[0] >= x[1] || x[2] < 1 || x[2] > 3 {
				t.Fatalf("number %d: connected %v", i, x)
			}
			p.links[[2]int64{x[0], x[1]}] = x[2]
		case disconnected:
			if _, ok := p.links[[2]int64{x[0], x[1]}]; !ok {
				t.Fatalf("number %d: disconnected %v, which are not connected", i, x)
			}
			delete(p.links, [2]int64{x[0], x[1]})
		case looked:
			p.asked++
			p.right += int(x[4])
		}
	}
	return p
}

// TestPageMatchesTheRun plays what is in a page and compares it with the World
// that was recorded.
func TestPageMatchesTheRun(t *testing.T) {
	r, w := Run(1, 24)
	page, err := r.Page()
	if err != nil {
		t.Fatal(err)
	}
	p := play(t, parse(t, page))
	running, members, ends := 0, 0, 0
	for _, s := range p.state {
		if s != died && s >= 0 {
			running++
		}
		if s == joined {
			members++
		}
	}
	for _, m := range append(w.Bootstraps, w.Machines...) {
		if m.Node != nil {
			ends += m.Node.Connections()
		}
	}
	if running != w.Running() || members != len(w.Members()) {
		t.Errorf("the page ends with %d running, %d on the ring; the run with %d, %d", running, members, w.Running(), len(w.Members()))
	}
	// A connection of which one end does not know yet is not shown.
	if n := 2 * len(p.links); n > ends || n < ends*9/10 {
		t.Errorf("the page ends with %d ends of connections, the run with %d", n, ends)
	}
	if p.asked < w.Lookups.Asked*9/10 || p.asked > w.Lookups.Asked || p.right != w.Lookups.Right {
		t.Errorf("the page has %d lookups, %d right; the run %d, %d", p.asked, p.right, w.Lookups.Asked, w.Lookups.Right)
	}
	again, _ := Run(1, 24)
	if other, _ := again.Page(); !bytes.Equal(page, other) {
		t.Error("the same seed gives another page")
	}
}

// requests is what would make a browser ask for something.
var requests = regexp.MustCompile(`(?i)https?:|//[a-z0-9-]+\.[a-z]|\ssrc\s*=|\shref\s*=|@import|url\(|fetch\(|XMLHttpRequest|WebSocket|EventSource|import\(|sendBeacon|ServiceWorker`)

func TestNoRequests(t *testing.T) {
	if found := requests.FindString(page); found != "" {
		t.Errorf("the page would ask for something: %q", found)
	}
	if !strings.Contains(page, `content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"`) {
		t.Error("the page does not forbid requests")
	}
	for _, bad := range []string{`<script src="x.js">`, `<link href="a.css">`, `fetch("/x")`, `"https://example.org"`, `url(x.png)`} {
		if !requests.MatchString(bad) {
			t.Errorf("%s is not noticed", bad)
		}
	}
}

// TestCommittedPage: the documents' page is of this code, small, and plays.
func TestCommittedPage(t *testing.T) {
	b, err := os.ReadFile(committed)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > 1<<20 {
		t.Errorf("%d bytes, at most 1 MiB", len(b))
	}
	if found := requests.Find(b); found != nil {
		t.Errorf("the page would ask for something: %q", found)
	}
	before, after, _ := strings.Cut(page, hole)
	if !bytes.HasPrefix(b, []byte(before)) || !bytes.HasSuffix(b, []byte(after)) {
		t.Error("page.html has changed: run make sim SIM=watch")
	}
	r := parse(t, b)
	p := play(t, r)
	if len(r.Nodes) < 150 || p.last > r.Length || p.right == 0 || len(p.links) == 0 {
		t.Errorf("%d nodes, the last event at %d of %d ms, %d lookups right, %d connections in the end", len(r.Nodes), p.last, r.Length, p.right, len(p.links))
	}
}

// TestWatch writes the page: make sim SIM=watch.
func TestWatch(t *testing.T) {
	order, err := report.Ordered()
	if err != nil {
		t.Fatal(err)
	}
	document := os.Getenv("SIM_DOCUMENT")
	if order.Dir == "" || document == "" || !order.Wants("watch", 0, 0) {
		t.Skip("a part of make sim: make sim SIM=watch")
	}
	r, w := Run(1, 190)
	page, err := r.Page()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(strings.TrimSuffix(document, filepath.Ext(document)), "watch.html")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, page, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: %d bytes, %d nodes, %d numbers of events; lookups right %.4f", path, len(page), len(r.Nodes), len(r.Events), w.Lookups.Success())
}
