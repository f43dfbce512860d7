package credential

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"encoding/pem"
	"fmt"
)

const (
	signatureBlock = "GRID SIGNATURE"
	maxSignatures  = 4
)

// signed is a body and who signed it. As text it is a PEM block of the body
// followed by one "GRID SIGNATURE" block per signature; a signature block is
// the signer's KeyID (32 bytes) and an ASN.1 ECDSA signature over SHA-256 of
//
//	"grid-appliance " type "\x00" body
//
// where type is the label of the body's block, so that no object can be taken
// for one of another type. ECDSA signatures can be rewritten by anyone into
// others that verify too: the identity of an object is its body alone.
type signed struct {
	label      string
	body       []byte
	signatures []signature
}

type signature struct {
	key   KeyID
	value []byte
}

func (s *signed) digest() [32]byte {
	return sha256.Sum256(append([]byte("grid-appliance "+s.label+"\x00"), s.body...))
}

func (s *signed) sign(key *ecdsa.PrivateKey) error {
	digest := s.digest()
	value, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		return fmt.Errorf("sign %s: %w", s.label, err)
	}
	s.signatures = append(s.signatures, signature{KeyIDOf(&key.PublicKey), value})
	return nil
}

// signedBy reports whether one of the signatures is a good one of key.
func (s *signed) signedBy(key *ecdsa.PublicKey) bool {
	id, digest := KeyIDOf(key), s.digest()
	for _, sig := range s.signatures {
		if sig.key == id && ecdsa.VerifyASN1(key, digest[:], sig.value) {
			return true
		}
	}
	return false
}

func (s *signed) text() []byte {
	var b bytes.Buffer
	pem.Encode(&b, &pem.Block{Type: s.label, Bytes: s.body})
	for _, sig := range s.signatures {
		pem.Encode(&b, &pem.Block{Type: signatureBlock, Bytes: append(sig.key[:], sig.value...)})
	}
	return b.Bytes()
}

func parseSigned(label string, text []byte, maxBody int) (*signed, error) {
	blocks, err := pemBlocks(text, 1+maxSignatures)
	if err != nil {
		return nil, err
	}
	if blocks[0].Type != label {
		return nil, fmt.Errorf("%w: a %q block, not %q", ErrFormat, blocks[0].Type, label)
	}
	s := &signed{label: label, body: blocks[0].Bytes}
	if len(s.body) > maxBody {
		return nil, fmt.Errorf("%w: %d bytes, at most %d allowed", ErrFormat, len(s.body), maxBody)
	}
	for _, b := range blocks[1:] {
		var sig signature
		if b.Type != signatureBlock || len(b.Bytes) <= len(sig.key) || len(b.Bytes) > len(sig.key)+80 {
			return nil, fmt.Errorf("%w: a %q block of %d bytes is no signature", ErrFormat, b.Type, len(b.Bytes))
		}
		copy(sig.key[:], b.Bytes)
		sig.value = b.Bytes[len(sig.key):]
		s.signatures = append(s.signatures, sig)
	}
	return s, nil
}

// encodeBody writes a body: JSON of one struct, in the order of its fields.
func encodeBody(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// decodeBody is the inverse. What encodeBody would not have written byte for
// byte (an unknown or repeated key, other spacing, trailing data) is ErrFormat.
func decodeBody(body []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w: %v", ErrFormat, err)
	}
	again, err := encodeBody(v)
	if err != nil || !bytes.Equal(again, body) {
		return fmt.Errorf("%w: not in canonical form", ErrFormat)
	}
	return nil
}
