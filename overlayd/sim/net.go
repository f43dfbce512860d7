package sim

import (
	"net/netip"
	"time"
)

// MaxDatagram is the largest payload the network carries, in bytes: an
// Ethernet packet of 1,500 without the headers of IPv4 and UDP.
const MaxDatagram = 1472

// Config is how the network treats datagrams that cross the Internet. All
// shares are of 1.
type Config struct {
	// Delay is the one-way delay between places; nil is Regions.
	Delay Matrix
	// Jitter adds up to this share of the delay, evenly drawn.
	Jitter float64
	// Loss, Duplicate and Reorder happen to this share of datagrams. One
	// that is reordered takes up to twice its delay longer.
	Loss, Duplicate, Reorder float64
	// Unreachable is the share of pairs of sites that never reach each other
	// though both reach the rest.
	Unreachable float64
	// LAN is the delay between hosts of one private realm; 0 is 0.2 ms.
	LAN time.Duration
}

// Usual is the network of research/overlay.md §7: half a percent lost, 2.3 % of
// pairs that can't reach each other (Freedman et al., WORLDS'05).
var Usual = Config{Jitter: 0.1, Loss: 0.005, Duplicate: 0.001, Reorder: 0.005, Unreachable: 0.023}

// Stats counts what became of datagrams.
type Stats struct {
	Sent, Delivered, Doubled uint64
	Lost                     uint64 // by chance
	Cut                      uint64 // by a partition or an unreachable pair
	Filtered                 uint64 // by a translator
	Nowhere                  uint64 // no such address, or the host is down
	Oversize                 uint64
	Bytes                    uint64 // payload sent
}

// Net is the underlay: realms, hosts and translators.
type Net struct {
	*Engine
	Config
	Stats    Stats
	Internet *Realm

	hosts  []*Host
	nats   []*NAT
	groups []uint8 // by site; empty when the network is whole
	salt   uint64
	free   []*flight
	small  [][]byte
	large  [][]byte
}

// NewNet returns an empty network in an engine's time.
func NewNet(e *Engine, cfg Config) *Net {
	if cfg.Delay == nil {
		cfg.Delay = Regions
	}
	if cfg.LAN == 0 {
		cfg.LAN = 200 * time.Microsecond
	}
	return &Net{Engine: e, Config: cfg, Internet: &Realm{base: internetBase}, salt: e.Rand.Uint64()}
}

// AddNAT puts a translator into a realm.
func (n *Net) AddNAT(outer *Realm, b Behaviour, p Place) *NAT {
	base := uint32(privateBase)
	if outer.base == privateBase {
		base = carrierBase // never the same addresses on both sides of one box
	}
	nat := &NAT{Behaviour: b, place: p, outer: outer, engine: n.Engine, rand: n.Rand}
	nat.Inside = &Realm{gateway: nat, base: base}
	nat.addr = outer.attach(attached{nat: nat})
	nat.index = int32(len(n.nats))
	n.nats = append(n.nats, nat)
	return nat
}

// Addr returns the translator's outer address.
func (n *NAT) Addr() netip.Addr { return addrOf(n.addr) }

// site is the index of what carries a realm's traffic on the Internet.
func (n *Net) site(r *Realm, addr uint32) uint32 {
	for r.gateway != nil {
		r, addr = r.gateway.outer, r.gateway.addr
	}
	return addr - r.base
}

// Partition cuts the Internet: sites reach each other only if their hosts have
// the same number in sides, which is by Host.Name; a host beyond it has 0. Hosts
// behind one translator stay together, with the number of the first of them.
func (n *Net) Partition(sides []uint8) {
	n.groups = make([]uint8, len(n.Internet.at))
	seen := make([]bool, len(n.groups))
	for i, h := range n.hosts {
		if s := n.site(h.realm, h.addr); !seen[s] {
			seen[s] = true
			if i < len(sides) {
				n.groups[s] = sides[i]
			}
		}
	}
}

// Hosts returns how many hosts there are.
func (n *Net) Hosts() int { return len(n.hosts) }

// Heal ends a partition.
func (n *Net) Heal() { n.groups = nil }

func (n *Net) group(site uint32) uint8 {
	if site < uint32(len(n.groups)) {
		return n.groups[site]
	}
	return 0 // appeared after the cut
}

// cut says whether two sites can't reach each other now.
func (n *Net) cut(a, b uint32) bool {
	if n.groups != nil && n.group(a) != n.group(b) {
		return true
	}
	if n.Unreachable == 0 {
		return false
	}
	x := n.salt ^ uint64(min(a, b))<<32 ^ uint64(max(a, b))
	return float64(mix(x)>>11)/(1<<53) < n.Unreachable
}

// mix is the finaliser of SplitMix64: a pair's fate needs no table.
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// flight is a datagram under way in the realm where its destination is.
type flight struct {
	net      *Net
	to       attached
	realm    *Realm
	from     endpoint
	dst      endpoint
	sender   *Host
	siteFrom uint32
	siteTo   uint32
	inet     bool
	data     []byte
}

// send is the way out: up through the translators, then across one realm.
func (n *Net) send(h *Host, port uint16, to netip.AddrPort, data []byte) {
	n.Stats.Sent++
	n.Stats.Bytes += uint64(len(data))
	h.Sent++
	h.SentBytes += uint64(len(data))
	if len(data) > MaxDatagram {
		n.Stats.Oversize++
		return
	}
	dst, ok := toEndpoint(to)
	if !ok {
		n.Stats.Nowhere++
		return
	}
	from, realm := endpointOf(h.addr, port), h.realm
	target, found := realm.find(dst.addr())
	for !found {
		box := realm.gateway
		if box == nil {
			n.Stats.Nowhere++
			return
		}
		if from, ok = box.outbound(from, dst); !ok {
			n.Stats.Filtered++
			return
		}
		if dst.addr() == box.addr { // hairpin: back in at the same box
			if !box.Hairpin {
				n.Stats.Filtered++
				return
			}
			n.launch(flight{to: attached{nat: box}, realm: box.outer, from: from, dst: dst, sender: h}, n.LAN, data)
			return
		}
		realm = box.outer
		target, found = realm.find(dst.addr())
	}
	f := flight{to: target, realm: realm, from: from, dst: dst, sender: h}
	if realm != n.Internet {
		n.launch(f, n.LAN, data)
		return
	}
	f.inet, f.siteFrom, f.siteTo = true, from.addr()-realm.base, dst.addr()-realm.base
	n.cross(f, n.Delay.oneWay(h.place, target.place()), data)
}

// cross is the Internet's part: cuts, loss, jitter, reordering, doubles.
func (n *Net) cross(f flight, delay time.Duration, data []byte) {
	if f.siteFrom != f.siteTo && n.cut(f.siteFrom, f.siteTo) {
		n.Stats.Cut++
		return
	}
	if n.chance(n.Loss) {
		n.Stats.Lost++
		return
	}
	copies := 1
	if n.chance(n.Duplicate) {
		n.Stats.Doubled++
		copies = 2
	}
	for range copies {
		d := delay
		if n.Jitter > 0 {
			d += time.Duration(n.Rand.Float64() * n.Jitter * float64(delay))
		}
		if n.chance(n.Reorder) {
			d += time.Duration(n.Rand.Float64() * 2 * float64(delay))
		}
		n.launch(f, d, data)
	}
}

func (n *Net) chance(p float64) bool { return p > 0 && n.Rand.Float64() < p }

func (n *Net) launch(f flight, delay time.Duration, data []byte) {
	var p *flight
	if k := len(n.free); k > 0 {
		p, n.free = n.free[k-1], n.free[:k-1]
	} else {
		p = new(flight)
	}
	*p = f
	p.net, p.data = n, append(n.buffer(len(data)), data...)
	n.Schedule(n.now+delay, p)
}

// smallDatagram splits the free buffers: most messages are short.
const smallDatagram = 256

func (n *Net) buffer(size int) []byte {
	pool, want := &n.small, smallDatagram
	if size > smallDatagram {
		pool, want = &n.large, MaxDatagram
	}
	if k := len(*pool); k > 0 {
		b := (*pool)[k-1]
		*pool = (*pool)[:k-1]
		return b[:0]
	}
	return make([]byte, 0, want)
}

// Happen is the arrival: down through the translators, then to the host.
func (f *flight) Happen() {
	n := f.net
	if f.inet && f.siteFrom != f.siteTo && n.groups != nil && n.group(f.siteFrom) != n.group(f.siteTo) {
		n.Stats.Cut++
		f.land()
		return
	}
	to, realm, dst := f.to, f.realm, f.dst
	// What was there when it left may have moved away meanwhile.
	if now, ok := realm.find(dst.addr()); !ok || now != to {
		n.Stats.Nowhere++
		f.land()
		return
	}
	for to.nat != nil {
		inner, ok := to.nat.inbound(f.from, dst)
		if !ok {
			n.Stats.Filtered++
			f.land()
			return
		}
		dst, realm = inner, to.nat.Inside
		if to, ok = realm.find(dst.addr()); !ok {
			n.Stats.Nowhere++
			f.land()
			return
		}
	}
	to.host.arrive(f, dst)
}

// land gives the datagram's memory back.
func (f *flight) land() {
	n := f.net
	if cap(f.data) == smallDatagram {
		n.small = append(n.small, f.data)
	} else {
		n.large = append(n.large, f.data)
	}
	*f = flight{}
	n.free = append(n.free, f)
}
