package bootstrap

import (
	"net/netip"
	"testing"

	"github.com/pion/stun/v3"
)

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
		drop    Drop
		code    stun.ErrorCode
		mapped  string
	}{
		{name: "IPv4", request: build(stun.BindingRequest), from: v4, mapped: "198.51.100.7:5555"},
		{name: "IPv6", request: build(stun.BindingRequest), from: v6, mapped: "[2001:db8::7]:5555"},
		{name: "software and fingerprint", request: build(stun.BindingRequest, stun.NewSoftware("x"), stun.Fingerprint), from: v4, mapped: "198.51.100.7:5555"},
		{name: "must understand", request: build(stun.BindingRequest, unknown), from: v4, code: stun.CodeUnknownAttribute},
		{name: "spoiled fingerprint", request: spoiled, from: v4, drop: DropSTUNMalformed},
		{name: "response", request: build(stun.BindingSuccess), from: v4, drop: DropSTUNOther},
		{name: "error", request: build(stun.BindingError), from: v4, drop: DropSTUNOther},
		{name: "indication", request: build(stun.NewType(stun.MethodBinding, stun.ClassIndication)), from: v4, drop: DropSTUNOther},
		{name: "TURN allocation", request: build(stun.NewType(stun.MethodAllocate, stun.ClassRequest)), from: v4, drop: DropSTUNOther},
		{name: "trailing byte", request: append(build(stun.BindingRequest), 0), from: v4, drop: DropSTUNMalformed},
		{name: "short", request: build(stun.BindingRequest, stun.NewSoftware("x"))[:22], from: v4, drop: DropSTUNMalformed},
		{name: "port 0", request: build(stun.BindingRequest), from: netip.AddrPortFrom(v4.Addr(), 0), drop: DropSTUNMalformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			answer, drop := AnswerSTUN(c.request, c.from)
			if drop != c.drop || (answer == nil) != (c.drop != NoDrop) {
				t.Fatalf("answer of %d bytes, drop %q; want drop %v", len(answer), drop, c.drop)
			}
			if drop != NoDrop {
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
		answer, drop := AnswerSTUN(request, from)
		if (answer == nil) == (drop == NoDrop) {
			t.Errorf("answer %x and drop %v", answer, drop)
		}
		// The growth the comment promises, so that nobody is flooded by us.
		if over := len(answer) - len(request); over > 32 {
			t.Errorf("the answer is %d bytes longer than its request", over)
		}
	})
}
