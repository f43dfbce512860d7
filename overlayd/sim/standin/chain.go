package standin

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"time"

	"gridappliance/credential"
)

// Sizes of the certificates that a worker's floppy makes: measured.
const (
	nodeSize   = 660
	holderSize = 590
)

// Claim is what a made-up chain says.
type Claim struct {
	ID        credential.NodeID
	X25519    [32]byte
	Holder    credential.KeyID
	Namespace string
	NotAfter  time.Time
}

// Chain returns two certificates of the usual sizes. The namespace has at most
// 255 bytes.
func Chain(c Claim) credential.Chain {
	holder := append(make([]byte, 0, holderSize), "holder"...)
	holder = append(holder, c.Holder[:]...)
	node := append(make([]byte, 0, nodeSize), "node"...)
	node = append(node, c.ID[:]...)
	node = append(node, c.X25519[:]...)
	node = append(node, c.Holder[:]...)
	node = binary.BigEndian.AppendUint64(node, uint64(c.NotAfter.Unix()))
	node = append(append(node, byte(len(c.Namespace))), c.Namespace...)
	return credential.Chain{node[:nodeSize], holder[:holderSize]}
}

// Verify believes what a chain says, but that node and holder must belong
// together and the end must not have come. A simulation that revokes wraps it.
func Verify(chain credential.Chain, now time.Time) (*credential.Node, error) {
	if len(chain) != 2 || len(chain[0]) != nodeSize || len(chain[1]) != holderSize || !bytes.HasPrefix(chain[0], []byte("node")) {
		return nil, fmt.Errorf("stand-in chain: %w", credential.ErrFormat)
	}
	b := chain[0][4:]
	n := &credential.Node{Role: credential.RoleWorker, Roles: []credential.Role{credential.RoleWorker}}
	b = b[copy(n.ID[:], b):]
	b = b[copy(n.X25519[:], b):]
	h := &credential.Holder{}
	b = b[copy(h.Key[:], b):]
	n.NotAfter = time.Unix(int64(binary.BigEndian.Uint64(b)), 0)
	h.NotAfter = n.NotAfter
	b = b[8:]
	n.Namespace = string(b[1 : 1+b[0]])
	n.Holder, n.Quota.RelayMbit = h, 100
	if !bytes.HasPrefix(chain[1], append([]byte("holder"), h.Key[:]...)) {
		return nil, fmt.Errorf("stand-in chain: %w", credential.ErrSignature)
	}
	if now.After(n.NotAfter) {
		return nil, fmt.Errorf("stand-in chain: %w", credential.ErrExpired)
	}
	return n, nil
}
