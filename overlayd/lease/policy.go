package lease

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"
	"time"

	"gridappliance/credential"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

// Protocol numbers.
const (
	// drift is by how much a clock's rate may be off, either way (TRUST.md).
	drift = 0.02
	// RecoverWait is how long a witness that finds nobody to copy from waits
	// for live nodes to show their leases (TRUST.md).
	RecoverWait = 60 * time.Second
)

// holdFor is how long a witness keeps a hold by its own clock, so that a
// holder whose clock is slow stops before a witness whose clock is fast
// forgets.
func holdFor(term time.Duration) time.Duration {
	return time.Duration(float64(term) * (1 + drift) / (1 - drift))
}

// rules are the choices on which exclusion rests. Tests replace one at a time
// and see the checker catch it.
type rules struct {
	hold   func(term time.Duration) time.Duration
	quorum func(n int) int
	anySeq bool // a witness takes any seq

	// patience is the longest pause of a holder that gets nothing: it decides
	// nothing, but a simulation with impatient rivals finds more.
	patience time.Duration
}

var soundRules = rules{hold: holdFor, quorum: majority, patience: backoffMost}

// AddressKey returns the key of an IPv4 address.
func AddressKey(namespace string, addr netip.Addr) wire.LeaseKey {
	b := addr.As4()
	return wire.LeaseKey{Kind: wire.LeaseAddress, Namespace: namespace, Value: string(b[:])}
}

// ErrName is wrapped for what cannot be leased as a name.
var ErrName = errors.New("not a name that can be leased")

// NameKey returns the key of a name, whatever its case.
func NameKey(namespace, name string) (wire.LeaseKey, error) {
	name = strings.ToLower(name)
	if !wire.ValidName(name) || reserved(name) {
		return wire.LeaseKey{}, ErrName
	}
	return wire.LeaseKey{Kind: wire.LeaseName, Namespace: namespace, Value: name}, nil
}

// reserved names stand for addresses and masters (TRUST.md, "Chain").
func reserved(name string) bool { return credential.CheckUnreserved(name, name) != nil }

// Member is what a witness must know of a node.
type Member struct {
	Namespace string
	Instance  wire.Instance
	Quota     wire.Holder // whose quota its leases count for
	Leases    int         // that quota
}

// Members tells who a node is: the verified chains that this node has.
type Members interface {
	// Member returns the node of a chain with this hash. It returns
	// ErrUnknownChain when the chain is not here, and any other error when the
	// node may not have leases: revoked, expired.
	Member(node nodeid.ID, chain [32]byte, now time.Time) (Member, error)
	// Revocations returns the version of the revocation lists that it used.
	Revocations() uint64
}

// ErrUnknownChain is returned by Members.
var ErrUnknownChain = errors.New("certificate chain is not known")

// InstanceOf returns a certificate's instance as leases carry it.
func InstanceOf(instance string) (i wire.Instance) {
	sum := sha256.Sum256([]byte(instance))
	copy(i[:], sum[:])
	return i
}

// MemberOf returns what a verified node certificate says.
func MemberOf(n *credential.Node) Member {
	m := Member{Namespace: n.Namespace, Instance: InstanceOf(n.Instance), Leases: n.Quota.Leases}
	copy(m.Quota[:], n.Holder.Key[:])
	return m
}

// candidate returns the i-th address that a node tries: SHA-256 of namespace,
// node ID and i, modulo the pool, so that a node finds its old address again.
func candidate(pool netip.Prefix, namespace string, node nodeid.ID, i uint32) netip.Addr {
	b := append([]byte("grid-appliance address\x00"), namespace...)
	b = binary.BigEndian.AppendUint32(append(append(b, 0), node[:]...), i)
	sum := sha256.Sum256(b)
	size := uint32(1) << (32 - pool.Bits())
	base := pool.Addr().As4()
	var addr [4]byte
	binary.BigEndian.PutUint32(addr[:], binary.BigEndian.Uint32(base[:])+binary.BigEndian.Uint32(sum[:])%size)
	return netip.AddrFrom4(addr)
}
