// Package progress tells a person, or a script, how far long work has come.
//
// Work is a row of named steps. Each step is timed, may count towards a total,
// and ends done or failed:
//
//	r := progress.New(stderr, progress.Auto)
//	s := r.Start("download")
//	s.Expect(197_000_000, progress.Bytes)
//	s.Add(n)                  // as often as one likes
//	s.Note("3 of 218 packages were in the store")
//	s.End(err)
//
// The three forms of the same events:
//
//	Bar    download  [########            ]  41 %  80.9 of 197.0 MB     (redrawn in place)
//	Lines  download: started
//	       download: done in 12.3 s: 197.0 MB, 3 of 218 packages were in the store
//	JSON   {"step":"download","event":"start"}
//	       {"step":"download","event":"progress","done":80900000,"total":197000000,"unit":"bytes"}
//	       {"step":"download","event":"done","seconds":12.3,"note":"..."}
//
// A nil *Reporter and a nil *Step are valid and silent. All methods are safe
// for concurrent use. Nothing is drawn more often than ten times a second.
package progress

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// Mode is the form in which events are written.
type Mode int

// The forms.
const (
	Auto  Mode = iota // Bar on a terminal, else Lines
	Bar               // one line a step, redrawn in place
	Lines             // one line when a step starts and one when it ends
	JSON              // one JSON object a line
)

// Unit is what a step counts.
type Unit string

// The units.
const (
	Bytes Unit = "bytes"
	Items Unit = "items"
)

// interval is the shortest time between two drawings of one step.
const interval = 100 * time.Millisecond

// Reporter writes the events of all steps to one writer.
type Reporter struct {
	mode Mode
	now  func() time.Time

	mu sync.Mutex
	w  io.Writer
}

// New returns a Reporter writing to w in the given form.
func New(w io.Writer, mode Mode) *Reporter {
	if mode == Auto {
		mode = Lines
		if f, ok := w.(*os.File); ok && terminal(f) {
			mode = Bar
		}
	}
	return &Reporter{mode: mode, now: time.Now, w: w}
}

func terminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && f.Name() != os.DevNull
}

// Step is one piece of work under way.
type Step struct {
	r     *Reporter
	name  string
	began time.Time

	// guarded by r.mu
	done, total int64
	unit        Unit
	note        string
	drawn       time.Time
	ended       bool
	quiet       bool // not shown yet
	timer       *time.Timer
}

// Start begins a step.
func (r *Reporter) Start(name string) *Step {
	if r == nil {
		return nil
	}
	s := &Step{r: r, name: name, began: r.now()}
	r.mu.Lock()
	defer r.mu.Unlock()
	s.showLocked(s.began)
	return s
}

// late is how long a step that StartLate starts stays silent.
const late = time.Second

// StartLate begins a step of which nothing is shown unless it takes longer than
// a second or fails. As JSON it is like Start.
func (r *Reporter) StartLate(name string) *Step {
	if r == nil || r.mode == JSON {
		return r.Start(name)
	}
	s := &Step{r: r, name: name, began: r.now(), quiet: true}
	s.timer = time.AfterFunc(late, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if !s.ended && s.quiet {
			s.showLocked(r.now())
		}
	})
	return s
}

// showLocked writes that the step has begun.
func (s *Step) showLocked(now time.Time) {
	s.quiet = false
	switch s.r.mode {
	case Lines:
		fmt.Fprintf(s.r.w, "%s: started\n", s.name)
	case JSON:
		s.r.event(event{Step: s.name, Event: "start"})
	case Bar:
		s.drawLocked(now)
	}
}

// Expect names the total and what is counted.
func (s *Step) Expect(total int64, unit Unit) {
	if s == nil {
		return
	}
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	s.total, s.unit = total, unit
}

// Add counts n more as done.
func (s *Step) Add(n int64) {
	if s == nil {
		return
	}
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	s.done += n
	if s.quiet {
		return
	}
	if now := s.r.now(); now.Sub(s.drawn) >= interval && !s.ended {
		s.drawLocked(now)
	}
}

// Write counts len(p) as done, so that a Step can stand in an io.MultiWriter.
func (s *Step) Write(p []byte) (int, error) {
	s.Add(int64(len(p)))
	return len(p), nil
}

// Note says something about the step that is shown at its end.
func (s *Step) Note(format string, args ...any) {
	if s == nil {
		return
	}
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	s.note = fmt.Sprintf(format, args...)
}

// End ends the step, as failed when err is not nil, and returns err. Only the
// first End of a step counts.
func (s *Step) End(err error) error {
	if s == nil {
		return err
	}
	r := s.r
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.ended {
		return err
	}
	s.ended = true
	if s.timer != nil {
		s.timer.Stop()
	}
	if s.quiet && err == nil {
		return nil
	}
	took := r.now().Sub(s.began).Seconds()
	switch r.mode {
	case JSON:
		e := event{Step: s.name, Event: "done", Seconds: &took, Done: s.done, Total: s.total, Unit: s.unit, Note: s.note}
		if err != nil {
			e.Event, e.Error = "failed", err.Error()
		}
		r.event(e)
	case Bar:
		fmt.Fprintf(r.w, "\r\033[K%-12s %s\n", s.name, s.endText(took, err))
	default:
		fmt.Fprintf(r.w, "%s: %s\n", s.name, s.endText(took, err))
	}
	return err
}

func (s *Step) endText(took float64, err error) string {
	if err != nil {
		return fmt.Sprintf("failed after %.1f s", took)
	}
	text := fmt.Sprintf("done in %.1f s", took)
	var parts []string
	if s.done > 0 {
		parts = append(parts, amount(s.done, s.unit))
	}
	if s.note != "" {
		parts = append(parts, s.note)
	}
	if len(parts) > 0 {
		text += ": " + strings.Join(parts, ", ")
	}
	return text
}

const barWidth = 24

func (s *Step) drawLocked(now time.Time) {
	if s.quiet {
		return
	}
	s.drawn = now
	switch s.r.mode {
	case JSON:
		if s.done > 0 {
			s.r.event(event{Step: s.name, Event: "progress", Done: s.done, Total: s.total, Unit: s.unit})
		}
	case Bar:
		line := fmt.Sprintf("%-12s ", s.name)
		switch {
		case s.total > 0:
			part := min(s.done, s.total)
			full := int(part * barWidth / s.total)
			line += fmt.Sprintf("[%s%s] %3d %%  %s", strings.Repeat("#", full), strings.Repeat(" ", barWidth-full),
				part*100/s.total, amount(s.done, s.unit))
		case s.done > 0:
			line += amount(s.done, s.unit)
		default:
			line += "..."
		}
		fmt.Fprintf(s.r.w, "\r\033[K%s", line)
	}
}

func amount(n int64, u Unit) string {
	if u == Items {
		return fmt.Sprintf("%d", n)
	}
	return fmt.Sprintf("%.1f MB", float64(n)/1e6)
}

type event struct {
	Step    string   `json:"step"`
	Event   string   `json:"event"`
	Done    int64    `json:"done,omitempty"`
	Total   int64    `json:"total,omitempty"`
	Unit    Unit     `json:"unit,omitempty"`
	Seconds *float64 `json:"seconds,omitempty"`
	Note    string   `json:"note,omitempty"`
	Error   string   `json:"error,omitempty"`
}

func (r *Reporter) event(e event) {
	if e.Seconds != nil {
		rounded := float64(int64(*e.Seconds*1000)) / 1000
		e.Seconds = &rounded
	}
	line, _ := json.Marshal(e) // plain strings and numbers: cannot fail
	r.w.Write(append(line, '\n'))
}
