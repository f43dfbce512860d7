package lease

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"fmt"
	"math/big"

	"gridappliance/credential"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

// Crypto signs with this node's key and verifies others'.
type Crypto interface {
	Sign(message []byte) wire.Signature
	// Verify says whether the signature is good and its key is the node's.
	Verify(node nodeid.ID, s *wire.Signature, message []byte) bool
}

// keyCrypto is Crypto by ECDSA on P-256 with SHA-256.
type keyCrypto struct {
	key    *ecdsa.PrivateKey
	public [33]byte
}

// NewCrypto returns a Crypto for a node's key. Signatures are deterministic
// (RFC 6979), so that equal inputs make equal runs.
func NewCrypto(key *ecdsa.PrivateKey) (Crypto, error) {
	if key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("lease key: %w", credential.ErrKey)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		return nil, fmt.Errorf("lease key: %w", err)
	}
	k := &keyCrypto{key: key}
	k.public[0] = 2 + point[64]&1
	copy(k.public[1:], point[1:33])
	return k, nil
}

func (k *keyCrypto) Sign(message []byte) wire.Signature {
	digest := sha256.Sum256(message)
	der, err := k.key.Sign(nil, digest[:], crypto.SHA256)
	if err != nil {
		panic("lease: sign: " + err.Error()) // a P-256 key signs any 32 bytes
	}
	s := wire.Signature{Key: k.public}
	readDER(der, &s.Value)
	return s
}

func (k *keyCrypto) Verify(node nodeid.ID, s *wire.Signature, message []byte) bool {
	x, y := elliptic.UnmarshalCompressed(elliptic.P256(), s.Key[:])
	if x == nil {
		return false
	}
	point := append(make([]byte, 0, 65), 4)
	point = append(point, x.FillBytes(make([]byte, 32))...)
	point = append(point, y.FillBytes(make([]byte, 32))...)
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		return false
	}
	if nodeid.ID(credential.NodeIDOf(public)) != node {
		return false
	}
	digest := sha256.Sum256(message)
	return ecdsa.Verify(public, digest[:], new(big.Int).SetBytes(s.Value[:32]), new(big.Int).SetBytes(s.Value[32:]))
}

// readDER reads the two numbers of an ECDSA signature that crypto/ecdsa wrote:
// 30 len 02 len r 02 len s.
func readDER(der []byte, value *[64]byte) {
	rest := der[2:]
	for i := range 2 {
		n := int(rest[1])
		number := rest[2 : 2+n]
		rest = rest[2+n:]
		for len(number) > 32 { // the sign's zero
			number = number[1:]
		}
		copy(value[32*i+32-len(number):32*i+32], number)
	}
}
