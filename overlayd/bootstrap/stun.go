package bootstrap

import (
	"net/netip"

	"github.com/pion/stun/v3"
)

// IsSTUN reports whether a datagram is a STUN message.
func IsSTUN(datagram []byte) bool { return stun.IsMessage(datagram) }

// AnswerSTUN returns the answer to a STUN binding request that came from
// from: the endpoint as it is seen from here (RFC 8489 §6.3.1, §14.2), or
// error 420 for an attribute that must be understood and is not. Anything
// else gets no answer but the reason why it is dropped. An answer is at most
// 24 bytes longer than its request, 32 with a fingerprint.
func AnswerSTUN(request []byte, from netip.AddrPort) (answer []byte, drop Drop) {
	if from.Port() == 0 {
		return nil, DropSTUNMalformed
	}
	m := new(stun.Message)
	if err := stun.Decode(request, m); err != nil {
		return nil, DropSTUNMalformed
	}
	// RFC 8489 §5: the length counts what follows the header, no less and no
	// more; §14.7: a fingerprint that is there must be right.
	if len(request) != stunHeader+int(m.Length) {
		return nil, DropSTUNMalformed
	}
	setters := []stun.Setter{stun.NewTransactionIDSetter(m.TransactionID)}
	fingerprint := m.Contains(stun.AttrFingerprint)
	if fingerprint && stun.Fingerprint.Check(m) != nil {
		return nil, DropSTUNMalformed
	}
	if m.Type != stun.BindingRequest {
		return nil, DropSTUNOther
	}
	if unknown := unknownAttributes(m); len(unknown) > 0 {
		setters = append(setters, stun.BindingError, stun.CodeUnknownAttribute, unknown)
	} else {
		setters = append(setters, stun.BindingSuccess, stun.XORMappedAddress{IP: from.Addr().AsSlice(), Port: int(from.Port())})
	}
	if fingerprint {
		setters = append(setters, stun.Fingerprint)
	}
	reply, err := stun.Build(setters...)
	if err != nil {
		return nil, DropSTUNMalformed
	}
	return reply.Raw, NoDrop
}

// stunHeader is the length of a STUN header in bytes (RFC 8489 §5).
const stunHeader = 20

// maxUnknown bounds the attributes that error 420 lists.
const maxUnknown = 8

// unknownAttributes returns what m requires its receiver to understand
// (RFC 8489 §14: types below 0x8000) beyond what a binding request without
// credentials has.
func unknownAttributes(m *stun.Message) stun.UnknownAttributes {
	var unknown stun.UnknownAttributes
	for _, a := range m.Attributes {
		if a.Type.Required() && len(unknown) < maxUnknown {
			unknown = append(unknown, a.Type)
		}
	}
	return unknown
}
