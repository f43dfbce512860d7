package control

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// metricsType is the text exposition's media type (Prometheus, "Exposition
// formats", text version 0.0.4).
const metricsType = "text/plain; version=0.0.4; charset=utf-8"

// states in their order, for a gauge each.
var states = []State{StateStarting, StateJoining, StateRunning, StateStopping}

// AppendMetrics appends a status as Prometheus's text exposition. A counter's
// name is the status's with everything but letters and digits as "_", between
// "overlayd_" and "_total": drop/no-session is overlayd_drop_no_session_total.
func AppendMetrics(b []byte, s Status) []byte {
	m := metrics{b}
	m.head("info", "gauge", "what this node is")
	m.value("info", "1", "version", s.Version, "grid", s.Grid, "namespace", s.Namespace, "node", s.NodeID, "role", s.Role)
	m.head("state", "gauge", "1 for the state in which the node is")
	for _, state := range states {
		m.value("state", number(state == s.State), "state", string(state))
	}
	m.instant("address_since_timestamp_seconds", "when the virtual address came", s.Since)
	m.instant("lease_end_timestamp_seconds", "when the lease of the virtual address ends", s.Lease.Until)
	m.instant("certificate_end_timestamp_seconds", "when the node certificate ends", s.Cert.NotAfter)
	m.gauge("descriptor_version", "version of the descriptor in use", strconv.FormatUint(s.Descr, 10))
	m.gauge("revocations_version", "version of the newest revocation list", strconv.FormatUint(s.Revoked, 10))
	m.gauge("alarms", "alarms that a person must see", strconv.Itoa(len(s.Alarms)))
	m.gauge("ring_member", "1 while the node is on the ring", number(s.Ring.Member))
	m.gauge("ring_size", "estimated number of members of the ring", strconv.FormatUint(s.Ring.Size, 10))
	if len(s.Peers) > 0 {
		m.head("sessions", "gauge", "sessions by the path they take")
		for _, path := range slices.Sorted(maps.Keys(s.Peers)) {
			m.value("sessions", strconv.Itoa(s.Peers[path]), "path", path)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Counters)) {
		metric := strings.Map(metricRune, name) + "_total"
		m.head(metric, "counter", name+" in overlayd status --counters")
		m.value(metric, strconv.FormatUint(s.Counters[name], 10))
	}
	return m.b
}

func metricRune(r rune) rune {
	if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
		return r
	}
	return '_'
}

func number(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

// metrics writes families one after the other. Names and help texts are this
// file's or made of letters and digits; label values are escaped.
type metrics struct{ b []byte }

func (m *metrics) head(name, kind, help string) {
	m.b = fmt.Appendf(m.b, "# HELP overlayd_%s %s\n# TYPE overlayd_%s %s\n", name, helpEscapes.Replace(help), name, kind)
}

// value writes one sample; labels are names and values by turns.
func (m *metrics) value(name, value string, labels ...string) {
	m.b = append(m.b, "overlayd_"+name...)
	for i := 0; i < len(labels); i += 2 {
		m.b = fmt.Appendf(m.b, `%c%s="%s"`, "{,"[min(i, 1)], labels[i], labelEscapes.Replace(strings.ToValidUTF8(labels[i+1], "\uFFFD")))
	}
	if len(labels) > 0 {
		m.b = append(m.b, '}')
	}
	m.b = append(m.b, " "+value+"\n"...)
}

func (m *metrics) gauge(name, help, value string) {
	m.head(name, "gauge", help)
	m.value(name, value)
}

// instant writes a time; none, if it is zero.
func (m *metrics) instant(name, help string, t time.Time) {
	if !t.IsZero() {
		m.gauge(name, help, strconv.FormatInt(t.Unix(), 10))
	}
}

var (
	helpEscapes  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	labelEscapes = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

func (s *Server) serveMetrics(w http.ResponseWriter, _ *http.Request) {
	status, _ := s.Status()
	w.Header().Set("Content-Type", metricsType)
	w.Write(AppendMetrics(nil, status))
}
