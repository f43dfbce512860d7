package session

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
	"io"
	"time"

	"github.com/flynn/noise"
	"golang.org/x/crypto/chacha20poly1305"

	"gridappliance/credential"
)

// Suite is a record AEAD. Protocol.
type Suite uint8

const (
	AES256GCM        Suite = 1
	ChaCha20Poly1305 Suite = 2
)

// label goes into the derivation of the record keys.
func (s Suite) label() string {
	return map[Suite]string{AES256GCM: "aes-256-gcm", ChaCha20Poly1305: "chacha20-poly1305"}[s]
}

// Handshake is what *noise.HandshakeState gives.
type Handshake interface {
	WriteMessage(out, payload []byte) ([]byte, *noise.CipherState, *noise.CipherState, error)
	ReadMessage(out, message []byte) ([]byte, *noise.CipherState, *noise.CipherState, error)
	PeerStatic() []byte
	ChannelBinding() []byte
}

// Crypto is everything that costs: a simulation of many nodes puts a stand-in
// of equal sizes here. Real fills in the first two; Verify is the caller's,
// because what is verified against changes (credential.Verifier.VerifyNode of
// the newest).
type Crypto struct {
	Handshake func(initiator bool, prologue []byte, static noise.DHKey, random io.Reader) (Handshake, error)
	AEAD      func(s Suite, key []byte) (cipher.AEAD, error)
	Verify    func(chain credential.Chain, now time.Time) (*credential.Node, error)
}

var cipherSuite = noise.NewCipherSuite(noise.DH25519, noise.CipherChaChaPoly, noise.HashBLAKE2s)

// Real returns flynn/noise and the standard AEADs, with a verifier.
func Real(verify func(credential.Chain, time.Time) (*credential.Node, error)) Crypto {
	return Crypto{Handshake: realHandshake, AEAD: realAEAD, Verify: verify}
}

func realHandshake(initiator bool, prologue []byte, static noise.DHKey, random io.Reader) (Handshake, error) {
	return noise.NewHandshakeState(noise.Config{
		CipherSuite: cipherSuite, Pattern: noise.HandshakeXX, Initiator: initiator,
		Prologue: prologue, StaticKeypair: static, Random: random,
	})
}

func realAEAD(s Suite, key []byte) (cipher.AEAD, error) {
	switch s {
	case AES256GCM:
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, err
		}
		return cipher.NewGCM(block)
	case ChaCha20Poly1305:
		return chacha20poly1305.New(key)
	}
	return nil, fmt.Errorf("AEAD %d: unknown", s)
}

// Prologue is what both ends must agree on before the first byte.
//
//	offset size field
//	0      14   "grid-appliance"
//	14     1    version
//	15     32   hash of the grid's first root: SHA-256 of its certificate's key
//	47     n    purpose
func Prologue(root [32]byte, purpose string) []byte {
	b := append([]byte("grid-appliance"), Version)
	return append(append(b, root[:]...), purpose...)
}

// prologueTag is how a HELLO says which prologue it means.
func prologueTag(prologue []byte) (tag [4]byte) {
	sum := sha256.Sum256(prologue)
	copy(tag[:], sum[:])
	return tag
}

// recordKeys derives one direction's two AEADs from the key that Noise split
// off: HKDF-SHA256, salt the handshake's hash, info
// "grid-appliance record " or "grid-appliance relay " and the AEAD's label.
func (c *Crypto) recordKeys(s Suite, split [32]byte, binding []byte) (record, relay cipher.AEAD, err error) {
	for use, to := range map[string]*cipher.AEAD{"record": &record, "relay": &relay} {
		key, err := hkdf.Key(sha256.New, split[:], binding, "grid-appliance "+use+" "+s.label(), 32)
		if err != nil {
			return nil, nil, err
		}
		if *to, err = c.AEAD(s, key); err != nil {
			return nil, nil, err
		}
	}
	return record, relay, nil
}
