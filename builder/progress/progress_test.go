package progress

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// scenario plays the same work in every form: time advances by a second a
// reading of the clock.
func scenario(mode Mode) string {
	var b bytes.Buffer
	r := New(&b, mode)
	now := time.Unix(0, 0)
	r.now = func() time.Time { now = now.Add(time.Second); return now }
	s := r.Start("download")
	s.Expect(4_000_000, Bytes)
	s.Add(1_000_000)
	s.Write(make([]byte, 1_000_000))
	s.Note("%d of %d were there", 3, 5)
	s.End(nil)
	s.End(errors.New("too late"))
	f := r.Start("install")
	f.End(errors.New("disk full"))
	return b.String()
}

func TestForms(t *testing.T) {
	tests := []struct {
		name string
		mode Mode
		want []string
	}{
		{"lines", Lines, []string{
			"download: started",
			"download: done in 3.0 s: 2.0 MB, 3 of 5 were there",
			"install: started",
			"install: failed after 1.0 s",
		}},
		{"json", JSON, []string{
			`{"step":"download","event":"start"}`,
			`{"step":"download","event":"progress","done":1000000,"total":4000000,"unit":"bytes"}`,
			`{"step":"download","event":"progress","done":2000000,"total":4000000,"unit":"bytes"}`,
			`{"step":"download","event":"done","done":2000000,"total":4000000,"unit":"bytes","seconds":3,"note":"3 of 5 were there"}`,
			`{"step":"install","event":"start"}`,
			`{"step":"install","event":"failed","seconds":1,"error":"disk full"}`,
		}},
		{"bar", Bar, []string{
			"download     ...",
			"download     [######                  ]  25 %  1.0 MB",
			"download     [############            ]  50 %  2.0 MB",
			"download     done in 3.0 s: 2.0 MB, 3 of 5 were there",
			"install      ...",
			"install      failed after 1.0 s",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out := strings.ReplaceAll(scenario(tt.mode), "\r\033[K", "\n")
			var got []string
			for _, l := range strings.Split(out, "\n") {
				if l != "" {
					got = append(got, l)
				}
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestSilent(t *testing.T) {
	var r *Reporter
	s := r.Start("x")
	s.Expect(1, Items)
	s.Add(1)
	s.Note("x")
	if want := errors.New("x"); s.End(want) != want {
		t.Error("the error was lost")
	}
}

func TestAutoIsLinesOffTerminal(t *testing.T) {
	if r := New(&bytes.Buffer{}, Auto); r.mode != Lines {
		t.Error("a bar into a buffer")
	}
}
