package core

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"gridappliance/credential"
	"gridappliance/overlayd/dht"
	"gridappliance/overlayd/lease"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

// What a record of dht.KindName says. Its name is a host name, or stands for an
// address as C and nine digits do: so whois and the resolver ask alike.
//
//	offset size
//	0      4    address
//	4      ...  lease certificate of the name or, when the name stands for the
//	            address, of that; nothing when the owner's certificate names
//	            the address, as a master's does

// label is the name that stands for an address: c250003007 is 10.250.3.7.
func label(addr netip.Addr) string {
	return strings.ToLower(strings.TrimSuffix(credential.HostName(addr), credential.Domain))
}

func appendNamed(addr netip.Addr, c *wire.LeaseCertificate) []byte {
	b := addr.AsSlice()
	if c != nil {
		b = c.Append(b)
	}
	return b
}

func parseNamed(value []byte) (addr netip.Addr, c *wire.LeaseCertificate, err error) {
	if len(value) < 4 {
		return addr, nil, fmt.Errorf("name's value: %w", wire.ErrMalformed)
	}
	addr = netip.AddrFrom4([4]byte(value[:4]))
	if len(value) == 4 {
		return addr, nil, nil
	}
	cert, err := wire.ParseLeaseCertificate(value[4:])
	return addr, &cert, err
}

// nameRight implements dht.NameRight: a name is whose lease for it, or for the
// address it stands for, is valid.
func (g *Grid) nameRight(n dht.Name, owner *credential.Node, value []byte, now time.Time) error {
	addr, c, err := parseNamed(value)
	if err != nil {
		return err
	}
	byAddress := n.Name == label(addr)
	if c == nil {
		fixed := slices.Contains(owner.Rights.Addresses, addr)
		if fixed && (byAddress || owner.Role == credential.RoleMaster && n.Name == owner.User) {
			return nil
		}
		return fmt.Errorf("%s at %v: %w", n.Name, addr, credential.ErrWrongRight)
	}
	want := lease.AddressKey(n.Namespace, addr)
	if !byAddress {
		if want, err = lease.NameKey(n.Namespace, n.Name); err != nil {
			return err
		}
	}
	if c.Key != want || c.Holder != nodeid.ID(owner.ID) || c.Instance != lease.InstanceOf(owner.Instance) {
		return fmt.Errorf("%s at %v: lease of %v: %w", n.Name, addr, c.Key, credential.ErrWrongRight)
	}
	if !now.Round(0).Before(lease.Ends(c).Add(dht.Skew)) {
		return fmt.Errorf("%s at %v: %w", n.Name, addr, credential.ErrExpired)
	}
	return g.holder.Book().Verify(c)
}

// held is what this node has published of a claim.
type held struct {
	claim lease.ClaimID
	lease lease.Lease
	name  dht.Name
	value [32]byte
}

// leased tells of a claim, and keeps its record in the store.
func (n *Node) leased(a lease.Changed) {
	n.do(Leased(a))
	g := n.grid
	i := slices.IndexFunc(g.held, func(h held) bool { return h.claim == a.Claim })
	if a.State != lease.Holding {
		if i >= 0 && a.State != lease.Validating {
			n.enqueue(dht.Withdraw{Name: g.held[i].name})
			g.held = slices.Delete(g.held, i, i+1)
		}
		return
	}
	key := a.Lease.Key
	h := held{claim: a.Claim, lease: a.Lease, name: dht.Name{Kind: dht.KindName, Namespace: key.Namespace, Name: key.Value}}
	if key.Kind == wire.LeaseAddress {
		h.name.Name = label(key.Addr())
	}
	if i >= 0 && g.held[i].name != h.name {
		n.enqueue(dht.Withdraw{Name: g.held[i].name})
	}
	if i >= 0 {
		h.value = g.held[i].value
		g.held[i] = h
	} else {
		g.held = append(g.held, h)
		slices.SortFunc(g.held, func(a, b held) int { return int(a.claim) - int(b.claim) })
	}
	n.publishHeld()
}

// publishHeld puts the records that have changed. A name stands for the
// address of the first claim, which may come later than the name.
func (n *Node) publishHeld() {
	g := n.grid
	addr := g.address()
	for i := range g.held {
		h := &g.held[i]
		at := addr
		if h.lease.Key.Kind == wire.LeaseAddress {
			at = h.lease.Key.Addr()
		}
		if !at.IsValid() {
			continue
		}
		value := appendNamed(at, &h.lease.Certificate)
		if d := sha256.Sum256(value); d != h.value {
			h.value = d
			n.enqueue(dht.Publish{Name: h.name, Value: value})
		}
	}
}

// address is the address that this node's names stand for.
func (g *Grid) address() netip.Addr {
	if len(g.self.Rights.Addresses) > 0 {
		return g.self.Rights.Addresses[0]
	}
	for _, h := range g.held {
		if h.lease.Key.Kind == wire.LeaseAddress {
			return h.lease.Key.Addr()
		}
	}
	return netip.Addr{}
}

// publishFixed puts the records of addresses that need no lease.
func (n *Node) publishFixed() {
	self := n.grid.self
	for i, addr := range self.Rights.Addresses {
		if !addr.Is4() {
			continue
		}
		names := []string{label(addr)}
		if i == 0 && self.Role == credential.RoleMaster {
			names = append(names, self.User)
		}
		for _, name := range names {
			n.enqueue(dht.Publish{Name: dht.Name{Kind: dht.KindName, Namespace: self.Namespace, Name: name}, Value: appendNamed(addr, nil)})
		}
	}
}

// whois looks up who has an address or a name.
func (n *Node) whois(e Whois) {
	name := strings.ToLower(e.Name)
	if name == "" && e.Address.Is4() {
		name = label(e.Address)
	}
	if !n.askStore(e.Token, true, dht.Name{Kind: dht.KindName, Namespace: n.grid.self.Namespace, Name: name}, false) {
		n.do(Who{Token: e.Token, Err: ErrBusy})
	}
}

// who answers with the newest of the records: there are two only while an old
// lease's record lives on, or when witnesses were copied. A lease of another
// for what this node holds is evidence of that. A lease that has ended while its
// record lay in the cache, as after a suspend, has most likely been renewed: the
// store is asked again.
func (n *Node) who(token uint64, r dht.Result) {
	answer := Who{Token: token, Err: ErrUnknownName}
	if len(r.Records) == 0 && r.Asked == 0 {
		answer.Err = ErrNoAnswer // nobody has said that there is none
	}
	var newest *wire.LeaseCertificate
	for _, record := range r.Records {
		addr, c, err := parseNamed(record.Value)
		if err != nil || answer.Err == nil && (c == nil || newest != nil && lease.Newer(c, newest) <= 0) {
			continue
		}
		newest = c
		answer = Who{Token: token, ID: record.Owner, Address: addr, Node: n.grid.store.Owner(record, n.now)}
		if c != nil {
			answer.Until = lease.Ends(c)
		}
		if c != nil && record.Owner != n.cfg.ID {
			n.enqueue(forHolder{lease.Rival{Certificate: *c}})
		}
	}
	ended := !answer.Until.IsZero() && !n.now.Round(0).Before(answer.Until)
	if ended && r.Asked == 0 && n.askStore(token, true, r.Name, true) {
		return
	}
	n.do(answer)
}
