package node

import (
	"net/netip"
	"testing"
	"time"

	"github.com/pion/stun/v3"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// TestRenewal walks every arrow of renewal's drawing, and the clock's jumps.
func TestRenewal(t *testing.T) {
	day := made{begin: noon, renew: noon.Add(12 * time.Hour), end: noon.Add(24 * time.Hour)}
	type step struct {
		at    time.Duration // after noon
		event any
		want  renewalAction
	}
	for _, c := range []struct {
		name  string
		steps []step
	}{
		{"first certificate", []step{{0, tick{}, makeCertificate}, {0, day, wait}, {1 * time.Hour, tick{}, wait}}},
		{"first fails", []step{{0, tick{}, makeCertificate}, {0, notMade{}, end}}},
		{"half life", []step{{0, day, wait}, {12*time.Hour - 1, tick{}, wait}, {12 * time.Hour, tick{}, makeCertificate}}},
		{"renewal fails, then works", []step{
			{0, day, wait}, {12 * time.Hour, tick{}, makeCertificate}, {12 * time.Hour, notMade{}, wait},
			{12*time.Hour + retryDelay - 1, tick{}, wait}, {12*time.Hour + retryDelay, tick{}, makeCertificate},
			{12*time.Hour + retryDelay, made{noon, noon.Add(20 * time.Hour), noon.Add(30 * time.Hour)}, wait},
			{19 * time.Hour, tick{}, wait}, {20 * time.Hour, tick{}, makeCertificate},
		}},
		{"renewal fails until the end", []step{
			{0, day, wait}, {23 * time.Hour, tick{}, makeCertificate}, {23 * time.Hour, notMade{}, wait},
			{24 * time.Hour, tick{}, makeCertificate}, {24 * time.Hour, notMade{}, end},
		}},
		{"clock jumps ahead a year", []step{{0, day, wait}, {8760 * time.Hour, tick{}, makeCertificate}}},
		{"clock jumps back a year", []step{{0, day, wait}, {-8760 * time.Hour, tick{}, makeCertificate}}},
		{"clock jumps back while a retry waits", []step{
			{0, day, wait}, {12 * time.Hour, tick{}, makeCertificate}, {12 * time.Hour, notMade{}, wait}, {-8760 * time.Hour, tick{}, makeCertificate},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var r renewal
			for i, s := range c.steps {
				if got := r.Handle(noon.Add(s.at), s.event); got != s.want {
					t.Fatalf("step %d, %v after noon, %T: action %d, want %d", i, s.at, s.event, got, s.want)
				}
			}
		})
	}
}

func TestRenewalDeadline(t *testing.T) {
	var r renewal
	r.Handle(noon, made{begin: noon, renew: noon.Add(12 * time.Hour), end: noon.Add(24 * time.Hour)})
	if got, want := r.NextDeadline(), noon.Add(12*time.Hour); !got.Equal(want) {
		t.Errorf("after made: %v, want %v", got, want)
	}
	r.Handle(noon.Add(12*time.Hour), tick{})
	r.Handle(noon.Add(12*time.Hour), notMade{})
	if got, want := r.NextDeadline(), noon.Add(12*time.Hour+retryDelay); !got.Equal(want) {
		t.Errorf("after a failure: %v, want %v", got, want)
	}
}

func TestAnswerSTUN(t *testing.T) {
	v4, v6 := netip.MustParseAddrPort("198.51.100.7:5555"), netip.MustParseAddrPort("[2001:db8::7]:5555")
	build := func(s ...stun.Setter) []byte {
		return stun.MustBuild(append([]stun.Setter{stun.TransactionID}, s...)...).Raw
	}
	spoiled := build(stun.BindingRequest, stun.Fingerprint)
	spoiled[len(spoiled)-1] ^= 1
	unknown := stun.RawAttribute{Type: 0x7abc, Value: []byte{1, 2, 3, 4}}
	for _, c := range []struct {
		name    string
		request []byte
		from    netip.AddrPort
		drop    DropReason
		code    stun.ErrorCode
		mapped  string
	}{
		{name: "IPv4", request: build(stun.BindingRequest), from: v4, mapped: "198.51.100.7:5555"},
		{name: "IPv6", request: build(stun.BindingRequest), from: v6, mapped: "[2001:db8::7]:5555"},
		{name: "software and fingerprint", request: build(stun.BindingRequest, stun.NewSoftware("x"), stun.Fingerprint), from: v4, mapped: "198.51.100.7:5555"},
		{name: "must understand", request: build(stun.BindingRequest, unknown), from: v4, code: stun.CodeUnknownAttribute},
		{name: "spoiled fingerprint", request: spoiled, from: v4, drop: dropSTUNMalformed},
		{name: "response", request: build(stun.BindingSuccess), from: v4, drop: dropSTUNOther},
		{name: "error", request: build(stun.BindingError), from: v4, drop: dropSTUNOther},
		{name: "indication", request: build(stun.NewType(stun.MethodBinding, stun.ClassIndication)), from: v4, drop: dropSTUNOther},
		{name: "TURN allocation", request: build(stun.NewType(stun.MethodAllocate, stun.ClassRequest)), from: v4, drop: dropSTUNOther},
		{name: "trailing byte", request: append(build(stun.BindingRequest), 0), from: v4, drop: dropSTUNMalformed},
		{name: "short", request: build(stun.BindingRequest, stun.NewSoftware("x"))[:22], from: v4, drop: dropSTUNMalformed},
		{name: "port 0", request: build(stun.BindingRequest), from: netip.AddrPortFrom(v4.Addr(), 0), drop: dropSTUNMalformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			answer, drop := answerSTUN(c.request, c.from)
			if drop != c.drop || (answer == nil) != (c.drop != "") {
				t.Fatalf("answer of %d bytes, drop %q; want drop %q", len(answer), drop, c.drop)
			}
			if drop != "" {
				return
			}
			var m, request stun.Message
			if err := stun.Decode(answer, &m); err != nil {
				t.Fatal(err)
			}
			if err := stun.Decode(c.request, &request); err != nil {
				t.Fatal(err)
			}
			if m.TransactionID != request.TransactionID {
				t.Errorf("transaction %x, want %x", m.TransactionID, request.TransactionID)
			}
			if request.Contains(stun.AttrFingerprint) != m.Contains(stun.AttrFingerprint) {
				t.Error("a fingerprint must be answered with one, and only then")
			}
			var mapped stun.XORMappedAddress
			var code stun.ErrorCodeAttribute
			switch c.code {
			case 0:
				if err := mapped.GetFrom(&m); err != nil || m.Type != stun.BindingSuccess || mapped.String() != c.mapped {
					t.Errorf("%s %s, %v; want %s", m.Type, mapped, err, c.mapped)
				}
			default:
				if err := code.GetFrom(&m); err != nil || m.Type != stun.BindingError || code.Code != c.code || !m.Contains(stun.AttrUnknownAttributes) {
					t.Errorf("%s %v, %v; want error %d with the attributes", m.Type, code, err, c.code)
				}
			}
		})
	}
}

func FuzzAnswerSTUN(f *testing.F) {
	f.Add(stun.MustBuild(stun.TransactionID, stun.BindingRequest, stun.NewSoftware("x"), stun.Fingerprint).Raw)
	f.Add(make([]byte, 20))
	from := netip.MustParseAddrPort("198.51.100.7:5555")
	f.Fuzz(func(t *testing.T, request []byte) {
		if !stun.IsMessage(request) {
			return
		}
		answer, drop := answerSTUN(request, from)
		if (answer == nil) == (drop == "") {
			t.Errorf("answer %x and drop %q", answer, drop)
		}
		// The growth the comment promises, so that nobody is flooded by us.
		if over := len(answer) - len(request); over > 32 {
			t.Errorf("the answer is %d bytes longer than its request", over)
		}
	})
}
