// Package standin is what large simulations use instead of cryptography:
// handshakes, records and certificates of the same sizes and round trips that
// cost next to nothing.
//
//	session.Crypto      real                         here
//	Handshake           Noise XX, 4 X25519 each      the same fields in the clear
//	AEAD                AES-256-GCM, ChaCha20        a copy and a checksum under the key
//	Verify              3 ECDSA signatures           fields of a made-up certificate
//
// It protects nothing, so no product package may import it: a test of the
// repository's rules sees to that. What is sent under other keys, changed or
// cut is refused all the same, so that the machines above meet what they meet
// in the daemon.
//
// Everything is safe for concurrent use except one Handshake.
package standin

import (
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"io"

	"github.com/flynn/noise"

	"gridappliance/overlayd/session"
)

var errForged = errors.New("stand-in: does not verify")

// Crypto returns the stand-in of session.Real.
func Crypto() session.Crypto {
	return session.Crypto{Handshake: newHandshake, AEAD: newAEAD, Verify: Verify}
}

// handshake is Noise XX with everything in the clear.
//
//	message 1: e (32), payload
//	message 2: e (32), static (32), 16, payload, 16
//	message 3: static (32), 16, payload, 16
type handshake struct {
	initiator  bool
	turn       int
	static     []byte
	peerStatic []byte
	transcript uint64
	random     io.Reader
}

func newHandshake(initiator bool, prologue []byte, static noise.DHKey, random io.Reader) (session.Handshake, error) {
	return &handshake{initiator: initiator, static: static.Public, transcript: sum(1, prologue), random: random}, nil
}

// WriteMessage is that of noise.HandshakeState.
func (h *handshake) WriteMessage(out, payload []byte) ([]byte, *noise.CipherState, *noise.CipherState, error) {
	start := len(out)
	if h.turn < 2 {
		var e [32]byte
		if _, err := io.ReadFull(h.random, e[:]); err != nil {
			return nil, nil, nil, err
		}
		out = append(out, e[:]...)
	}
	if h.turn > 0 {
		out = append(append(out, h.static...), make([]byte, 16)...)
	}
	out = append(out, payload...)
	if h.turn > 0 {
		out = binary.BigEndian.AppendUint64(append(out, make([]byte, 8)...), sum(h.transcript, out[start:]))
	}
	return out, h.split(out[start:], true), h.split(out[start:], false), nil
}

// ReadMessage is that of noise.HandshakeState.
func (h *handshake) ReadMessage(out, message []byte) ([]byte, *noise.CipherState, *noise.CipherState, error) {
	head, tail := []int{32, 80, 48}[h.turn], []int{0, 16, 16}[h.turn]
	if len(message) < head+tail {
		return nil, nil, nil, noise.ErrShortMessage
	}
	if tail > 0 {
		body := message[:len(message)-tail]
		if binary.BigEndian.Uint64(message[len(message)-8:]) != sum(h.transcript, body) {
			return nil, nil, nil, errForged
		}
		h.peerStatic = append([]byte{}, message[head-48:head-16]...)
	}
	out = append(out, message[head:len(message)-tail]...)
	return out, h.split(message, true), h.split(message, false), nil
}

// split mixes a message in, once for both directions, and after the last makes
// the keys.
func (h *handshake) split(message []byte, first bool) *noise.CipherState {
	if first {
		h.transcript = sum(h.transcript, message)
		h.turn++
	}
	if h.turn < 3 {
		return nil
	}
	var key [32]byte
	binary.BigEndian.PutUint64(key[:], h.transcript)
	if first {
		key[31] = 1
	}
	return noise.UnsafeNewCipherState(noCipher{}, key, 0)
}

// PeerStatic is that of noise.HandshakeState.
func (h *handshake) PeerStatic() []byte { return h.peerStatic }

// ChannelBinding is that of noise.HandshakeState.
func (h *handshake) ChannelBinding() []byte { return binary.BigEndian.AppendUint64(nil, h.transcript) }

// noCipher lets a CipherState carry a key; nothing is encrypted with it.
type noCipher struct{ noise.CipherSuite }

func (noCipher) Cipher([32]byte) noise.Cipher { return nil }

// aead copies and adds a checksum.
type aead struct{ key uint64 }

func newAEAD(s session.Suite, key []byte) (cipher.AEAD, error) { return aead{sum(uint64(s), key)}, nil }

func (aead) NonceSize() int { return 12 }
func (aead) Overhead() int  { return session.TagSize }

// Seal is that of cipher.AEAD.
func (a aead) Seal(dst, nonce, plain, ad []byte) []byte {
	tag := sum(sum(sum(a.key, nonce), plain), ad)
	dst = append(dst, plain...)
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(dst, tag), tag)
}

// Open is that of cipher.AEAD.
func (a aead) Open(dst, nonce, sealed, ad []byte) ([]byte, error) {
	n := len(sealed) - session.TagSize
	if n < 0 || binary.BigEndian.Uint64(sealed[n:]) != sum(sum(sum(a.key, nonce), sealed[:n]), ad) {
		return nil, errForged
	}
	return append(dst, sealed[:n]...), nil
}

// sum is FNV-1a over words of eight bytes: the same in every process, so that
// traces are.
func sum(start uint64, b []byte) uint64 {
	h := start ^ 14695981039346656037
	for len(b) >= 8 {
		h = (h ^ binary.LittleEndian.Uint64(b)) * 1099511628211
		h ^= h >> 29
		b = b[8:]
	}
	for _, c := range b {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h ^ h>>32
}
