package credential

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"
)

const (
	certificateBlock = "CERTIFICATE"
	keyBlock         = "PRIVATE KEY"

	maxChain = 3        // node, holder, issuer
	maxPEM   = 64 << 10 // bytes of any PEM text read here
)

// Certificate is one X.509 certificate, DER. In JSON it is base64.
type Certificate []byte

// PEM returns the certificate as text.
func (c Certificate) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: c})
}

// Chain is certificates, leaf first, without the root: holder; holder, issuer;
// node, holder; or node, holder, issuer.
type Chain []Certificate

// PEM returns the chain as text, leaf first.
func (c Chain) PEM() []byte {
	var b bytes.Buffer
	for _, e := range c {
		b.Write(e.PEM())
	}
	return b.Bytes()
}

// ParseChain reads one to three PEM certificates, as in HOLDER.CRT. Line ends
// may be CRLF; anything that is not a certificate is ErrFormat. Nothing is
// verified.
func ParseChain(text []byte) (Chain, error) {
	blocks, err := pemBlocks(text, maxChain)
	if err != nil {
		return nil, fmt.Errorf("certificate chain: %w", err)
	}
	var chain Chain
	for i, b := range blocks {
		if b.Type != certificateBlock {
			return nil, fmt.Errorf("certificate chain: %w: block %d is a %q, not a %q", ErrFormat, i+1, b.Type, certificateBlock)
		}
		if _, err := parseCertificate(b.Bytes); err != nil {
			return nil, fmt.Errorf("certificate chain: block %d: %w", i+1, err)
		}
		chain = append(chain, b.Bytes)
	}
	return chain, nil
}

func (c Chain) parse() ([]*x509.Certificate, error) {
	if len(c) == 0 || len(c) > maxChain {
		return nil, fmt.Errorf("certificate chain: %w: %d certificates, 1 to %d allowed", ErrPathLength, len(c), maxChain)
	}
	certs := make([]*x509.Certificate, len(c))
	for i, der := range c {
		cert, err := parseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("certificate chain: certificate %d: %w", i+1, err)
		}
		certs[i] = cert
	}
	return certs, nil
}

func parseCertificate(der []byte) (*x509.Certificate, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrFormat, err)
	}
	return cert, nil
}

// pemBlocks splits text into at most limit blocks. Apart from CRLF and white
// space at both ends, text must be exactly what encoding/pem writes for them:
// no headers, no text between, no other line length.
func pemBlocks(text []byte, limit int) ([]*pem.Block, error) {
	if len(text) > maxPEM {
		return nil, fmt.Errorf("%w: %d bytes, at most %d allowed", ErrFormat, len(text), maxPEM)
	}
	text = bytes.TrimSpace(bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")))
	var blocks []*pem.Block
	var again bytes.Buffer
	for rest := text; len(rest) > 0; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		blocks = append(blocks, b)
		if len(b.Headers) > 0 || len(blocks) > limit {
			return nil, fmt.Errorf("%w: PEM with headers or of more than %d blocks", ErrFormat, limit)
		}
		again.Write(pem.EncodeToMemory(b))
	}
	if len(blocks) == 0 {
		return nil, fmt.Errorf("%w: no PEM block", ErrFormat)
	}
	if !bytes.Equal(bytes.TrimSpace(again.Bytes()), text) {
		return nil, fmt.Errorf("%w: text that is not part of a PEM block, or unusual PEM", ErrFormat)
	}
	return blocks, nil
}

// NewKey makes a P-256 key.
func NewKey() (*ecdsa.PrivateKey, error) {
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

// FormatKey returns key as PKCS #8 PEM, the format of HOLDER.KEY, NODE.KEY and
// ISSUER.KEY.
func FormatKey(key *ecdsa.PrivateKey) (Secret, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("format key: %w", err)
	}
	return Secret(pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der})), nil
}

// ParseKey reads what FormatKey writes. Errors never quote the text.
func ParseKey(text []byte) (*ecdsa.PrivateKey, error) {
	blocks, err := pemBlocks(text, 1)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	if blocks[0].Type != keyBlock {
		return nil, fmt.Errorf("private key: %w: a %q block, not %q", ErrFormat, blocks[0].Type, keyBlock)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(blocks[0].Bytes)
	if err != nil {
		return nil, fmt.Errorf("private key: %w: not PKCS #8", ErrFormat)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("private key: %w: not a P-256 key", ErrKey)
	}
	return key, nil
}

// NodeID is a node's position on the ring: the first 16 bytes of SHA-256 over
// "grid-appliance node id\x00" and the DER SubjectPublicKeyInfo of its P-256
// key. Its text is 32 hexadecimal digits.
type NodeID [16]byte

// NodeIDOf returns the ID that belongs to a key.
func NodeIDOf(key *ecdsa.PublicKey) NodeID {
	sum := sha256.Sum256(append([]byte("grid-appliance node id\x00"), publicKeyDER(key)...))
	return NodeID(sum[:16])
}

func (id NodeID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText returns the 32 digits.
func (id NodeID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText accepts 32 hexadecimal digits.
func (id *NodeID) UnmarshalText(text []byte) error {
	if len(text) != 2*len(id) {
		return fmt.Errorf("node ID %.40q: %w: 32 hexadecimal digits expected", text, ErrFormat)
	}
	if _, err := hex.Decode(id[:], text); err != nil {
		return fmt.Errorf("node ID %q: %w", text, ErrFormat)
	}
	return nil
}

// KeyID is SHA-256 of a public key's DER SubjectPublicKeyInfo: what signatures,
// revocations and key identifiers name keys by. Its text is 64 hexadecimal
// digits.
type KeyID [32]byte

// KeyIDOf returns the identifier of a key.
func KeyIDOf(key *ecdsa.PublicKey) KeyID { return sha256.Sum256(publicKeyDER(key)) }

func keyIDOfCert(c *x509.Certificate) KeyID { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

func (id KeyID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText returns the 64 digits.
func (id KeyID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText accepts 64 hexadecimal digits.
func (id *KeyID) UnmarshalText(text []byte) error {
	if len(text) != 2*len(id) {
		return fmt.Errorf("key ID %.70q: %w: 64 hexadecimal digits expected", text, ErrFormat)
	}
	if _, err := hex.Decode(id[:], text); err != nil {
		return fmt.Errorf("key ID %q: %w", text, ErrFormat)
	}
	return nil
}

// publicKeyDER cannot fail for the P-256 keys that this package makes and
// accepts; for any other it returns nil, which is nobody's identifier.
func publicKeyDER(key *ecdsa.PublicKey) []byte {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil
	}
	return der
}

// newSerial draws a serial of 127 random bits: positive, and never given twice.
func newSerial() (*big.Int, error) {
	b := make([]byte, 16)
	if _, err := rand.Read(b); err != nil {
		return nil, err
	}
	b[0] &= 0x7f
	b[0] |= 0x40 // so that the text always has 32 digits
	return new(big.Int).SetBytes(b), nil
}

func serialText(c *x509.Certificate) string { return c.SerialNumber.Text(16) }

// blank is what a certificate to be made says, beside its keys.
type blank struct {
	subject    pkix.Name // with attributes: theirs
	notBefore  time.Time
	notAfter   time.Time
	ca         bool
	pathLength int         // of a CA
	attributes *attributes // nil: none (roots, HTCondor)
	dns        []string
	usage      []x509.ExtKeyUsage
}

// signer is a certificate and its key; a nil cert signs itself.
type signer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// make signs a certificate for pub. Times are cut to seconds, as X.509 does.
func (b blank) make(pub *ecdsa.PublicKey, by signer) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	id := KeyIDOf(pub)
	t := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               b.subject,
		NotBefore:             b.notBefore.UTC().Truncate(time.Second),
		NotAfter:              b.notAfter.UTC().Truncate(time.Second),
		BasicConstraintsValid: true,
		IsCA:                  b.ca,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		SubjectKeyId:          id[:20],
		SignatureAlgorithm:    x509.ECDSAWithSHA256,
		DNSNames:              b.dns,
		ExtKeyUsage:           b.usage,
	}
	if b.ca {
		t.KeyUsage = x509.KeyUsageCertSign
		t.MaxPathLen, t.MaxPathLenZero = b.pathLength, b.pathLength == 0
	}
	if b.attributes != nil {
		b.attributes.normalise()
		if err := b.attributes.check(); err != nil {
			return nil, err
		}
		t.Subject = b.attributes.subject()
		value, err := b.attributes.encode()
		if err != nil {
			return nil, err
		}
		t.ExtraExtensions = []pkix.Extension{{Id: attributesOID, Critical: true, Value: value}}
	}
	parent := by.cert
	if parent == nil {
		parent = t
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, pub, by.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of %s: %w", t.Subject, err)
	}
	return parseCertificate(der)
}
