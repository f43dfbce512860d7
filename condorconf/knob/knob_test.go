package knob

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDoc(t *testing.T) {
	var d Doc
	d.Comment("who is the central manager\n\nsecond paragraph")
	d.Set("CONDOR_HOST", Words([]string{"C250000002.ipop", "C250000003.ipop"}))
	d.Comment("policy")
	d.Set("RANK", Expr("100 * (%v =?= GridGroup) + %v", String("physics"), Int(1)))
	d.Set("ALLOW_CONFIG", Value{})
	d.Set("ENABLE_IPV6", Bool(false))
	d.Set("SLOT1_%d_USER", Expr("slot%v", Int(3)), 3)
	got, err := d.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	want := `# who is the central manager
#
# second paragraph
CONDOR_HOST = C250000002.ipop, C250000003.ipop

# policy
RANK = 100 * ("physics" =?= GridGroup) + 1
ALLOW_CONFIG =
ENABLE_IPV6 = False
SLOT1_3_USER = slot3
`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("Doc (-want +got):\n%s", diff)
	}
}

func TestDocRefuses(t *testing.T) {
	cases := map[string]struct {
		write func(*Doc)
		want  string
	}{
		"a misspelt name":        {func(d *Doc) { d.Set("STRAT", Bool(true)) }, "knob STRAT: is not in the allow-list"},
		"a name without index":   {func(d *Doc) { d.Set("SLOT1_%d_USER", Int(1)) }, "knob SLOT1_%d_USER: is not in the allow-list"},
		"a value too few":        {func(d *Doc) { d.Set("START", Expr("%v")) }, `knob START: expression "%v": 0 values for 1 places`},
		"a line end in source":   {func(d *Doc) { d.Set("START", Expr("True\nFOO = 1")) }, "0 values for 0 places"},
		"a hostile value":        {func(d *Doc) { d.Set("UID_DOMAIN", Word("a\nALLOW_WRITE = *")) }, `'\n' cannot stand`},
		"a hostile string":       {func(d *Doc) { d.Set("GridUser", String(`a" || true || "`)) }, `'"' cannot stand`},
		"a hostile list element": {func(d *Doc) { d.Set("FLOCK_TO", Words([]string{"ok", "a b"})) }, `' ' cannot stand`},
		"inside an expression":   {func(d *Doc) { d.Set("RANK", Expr("1 + %v", Word("$(HOME)"))) }, `'$' cannot stand`},
		"an empty word":          {func(d *Doc) { d.Set("UID_DOMAIN", Word("")) }, "knob UID_DOMAIN: value: is empty"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var d Doc
			c.write(&d)
			text, err := d.Bytes()
			if err == nil {
				t.Fatalf("got the text %q, want an error", text)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q, want it to contain %q", err, c.want)
			}
		})
	}
}

// FuzzValue holds that whatever a value is, the document is one line per Set,
// and the value stands in it unchanged or is refused.
func FuzzValue(f *testing.F) {
	for _, s := range []string{"physics", "a\nb", "$(HOME)", `a\`, "a b", `"`, "é", "a#b", "@=end", "\x00", "a=b", "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var d Doc
		d.Set("UID_DOMAIN", Word(s))
		d.Set("GridUser", String(s))
		text, err := d.Bytes()
		if err != nil {
			return
		}
		want := "UID_DOMAIN = " + s + "\nGridUser = \"" + s + "\"\n"
		if string(text) != want || strings.Count(want, "\n") != 2 || strings.ContainsAny(s, "$\\\"#=, \t\r") {
			t.Errorf("value %q became %q", s, text)
		}
	})
}
