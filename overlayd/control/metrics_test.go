package control_test

import (
	"bytes"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"gridappliance/overlayd/control"
	"gridappliance/overlayd/control/controltest"
)

// parser is Prometheus's own.
func parser() expfmt.TextParser { return expfmt.NewTextParser(model.LegacyValidation) }

func TestMetrics(t *testing.T) {
	c := serveNode(t, &controltest.Node{})
	text, err := c.Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/metrics.golden"
	if *update {
		if err := os.WriteFile(golden, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(text)); diff != "" {
		t.Errorf("exposition changed (-golden +got):\n%s", diff)
	}

	reader := parser()
	families, err := reader.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range (&controltest.Node{}).Live().Counters {
		metric := map[string]string{"drop/no-session": "overlayd_drop_no_session_total", "rx/datagrams": "overlayd_rx_datagrams_total",
			"drop/source": "overlayd_drop_source_total"}[name]
		f := families[metric]
		if f.GetType().String() != "COUNTER" || len(f.GetMetric()) != 1 || f.GetMetric()[0].GetCounter().GetValue() != float64(want) {
			t.Errorf("%s: %v, want the counter %s of %d", metric, f, name, want)
		}
	}
	for _, m := range families["overlayd_state"].GetMetric() {
		if state := m.GetLabel()[0].GetValue(); (m.GetGauge().GetValue() == 1) != (state == "running") {
			t.Errorf("state %s is %v", state, m.GetGauge().GetValue())
		}
	}
}

// TestMetricsEscape has what a descriptor or a counter's name may contain.
func TestMetricsEscape(t *testing.T) {
	const wild = "a\"b\\c\nd}ä\xff"
	s := control.Status{Grid: wild, Live: control.Live{Counters: map[string]uint64{wild: 1 << 63}}}
	text := control.AppendMetrics(nil, s)
	reader := parser()
	families, err := reader.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	var grid string
	for _, l := range families["overlayd_info"].GetMetric()[0].GetLabel() {
		if l.GetName() == "grid" {
			grid = l.GetValue()
		}
	}
	if want := "a\"b\\c\nd}ä\uFFFD"; grid != want {
		t.Errorf("grid %q, want %q", grid, want)
	}
	if f := families["overlayd_a_b_c_d____total"]; f == nil || f.GetMetric()[0].GetCounter().GetValue() != 1<<63 {
		t.Errorf("the counter is %v", f)
	}
}
