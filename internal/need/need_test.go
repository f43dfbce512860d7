package need

import (
	"fmt"
	"runtime"
	"testing"
)

// recorder is a testing.TB that notes how a test ended.
type recorder struct {
	testing.TB
	end string
}

func (r *recorder) Helper() {}
func (r *recorder) Skip(args ...any) {
	r.end = "skip: " + fmt.Sprint(args...)
	runtime.Goexit()
}
func (r *recorder) Fatalf(format string, args ...any) {
	r.end = "fail: " + fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// ended runs f as the body of a test and says how it ended.
func ended(f func(testing.TB)) string {
	r := &recorder{end: "ran"}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(r)
	}()
	<-done
	return r.end
}

func TestWhatIsAbsentSkipsAndRequireMakesItFail(t *testing.T) {
	absent := func(tb testing.TB) { Tool(tb, "no-such-program-anywhere") }
	for _, c := range []struct{ name, require, want string }{
		{"nothing required", "", "skip: the program no-such-program-anywhere is not installed"},
		{"another required", "vm,root", "skip: the program no-such-program-anywhere is not installed"},
		{"required", "vm,tools", "fail: REQUIRE=tools, but the program no-such-program-anywhere is not installed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("REQUIRE", c.require)
			if got := ended(absent); got != c.want {
				t.Errorf("ended with %q, want %q", got, c.want)
			}
		})
	}
}

func TestWhatIsThereLetsTheTestRun(t *testing.T) {
	t.Setenv("REQUIRE", "tools")
	if got := ended(func(tb testing.TB) { Tool(tb, "go") }); got != "ran" {
		t.Errorf("ended with %q", got)
	}
}

func TestABaseMustBeNamedAndBuilt(t *testing.T) {
	t.Setenv("REQUIRE", "base")
	for _, dir := range []string{"", t.TempDir()} {
		t.Setenv("GRID_BASE", dir)
		if got := ended(func(tb testing.TB) { Base(tb) }); got == "ran" || got[:4] != "fail" {
			t.Errorf("GRID_BASE=%q ended with %q, want a failure", dir, got)
		}
	}
}
