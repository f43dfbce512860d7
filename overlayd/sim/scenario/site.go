package scenario

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/flynn/noise"

	"gridappliance/credential"
	"gridappliance/overlayd/core"
	"gridappliance/overlayd/lease"
	"gridappliance/overlayd/link"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/session"
	"gridappliance/overlayd/sim"
	"gridappliance/overlayd/wire"
)

// Claims of every machine of a Site that is no master.
const (
	ClaimAddress lease.ClaimID = 1
	ClaimName    lease.ClaimID = 2
)

// Founding is what a grid's founder and its users made before a run: real keys
// and certificates. Runs that share one and have equal seeds are equal, though
// keys come from the system's chance: what was made once is used again.
type Founding struct {
	Grid     *credential.Grid
	floppies map[string]*credential.Identity
	keys     map[string]*ecdsa.PrivateKey
	chains   map[string]credential.Chain
}

// Found founds a grid whose namespace "one" has these times, in seconds.
func Found(masters, leaseTime, holdTime int) (*Founding, error) {
	g, err := credential.NewGrid(credential.GridOptions{Name: "scenario", Masters: masters, Namespaces: []credential.Namespace{
		{Name: "one", Pool: netip.MustParsePrefix("10.250.0.0/16"), LeaseTime: leaseTime, HoldTime: holdTime}}}, sim.Start)
	return &Founding{Grid: g, floppies: map[string]*credential.Identity{}, keys: map[string]*ecdsa.PrivateKey{},
		chains: map[string]credential.Chain{}}, err
}

// floppy is a user's, or a master's.
func (f *Founding) floppy(user string) (*credential.Identity, error) {
	if id := f.floppies[user]; id != nil {
		return id, nil
	}
	d := f.Grid.Descriptor
	i := slices.IndexFunc(f.Grid.Material, func(m credential.MasterMaterial) bool { return m.Name == user })
	var id *credential.Identity
	var err error
	if i >= 0 {
		m := f.Grid.Material[i]
		id, err = credential.Open(d.Text(), m.HolderCert, m.HolderKey, sim.Start)
		if err == nil {
			f.keys[user], err = credential.ParseKey(m.NodeKey)
		}
	} else {
		var cert []byte
		var key credential.Secret
		cert, key, err = f.Grid.IssueHolder(credential.HolderRequest{User: user, Group: "physics",
			Roles: []credential.Role{credential.RoleWorker}, Namespaces: []string{"one"}}, sim.Start)
		if err == nil {
			id, err = credential.Open(d.Text(), cert, key, sim.Start)
		}
	}
	f.floppies[user] = id
	return id, err
}

// key is the one that was made under a name.
func (f *Founding) key(name string) (*ecdsa.PrivateKey, error) {
	if f.keys[name] == nil {
		k, err := credential.NewKey()
		if err != nil {
			return nil, err
		}
		f.keys[name] = k
	}
	return f.keys[name], nil
}

// chain makes a node certificate, once.
func (f *Founding) chain(d *Disk, now time.Time) (credential.Chain, error) {
	name := fmt.Sprint(d.keyName, d.static.Public, d.Instance, now.UnixNano())
	if c := f.chains[name]; c != nil {
		return c, nil
	}
	id, err := f.floppy(d.user)
	if err != nil {
		return nil, err
	}
	made, err := id.MakeNode(credential.NodeRequest{Key: &d.key.PublicKey, X25519: [32]byte(d.static.Public), Instance: d.Instance}, now)
	if err != nil {
		return nil, err
	}
	f.chains[name] = made.Chain
	return made.Chain, nil
}

// Disk is what a machine keeps.
type Disk struct {
	Instance string
	user     string
	key      *ecdsa.PrivateKey
	keyName  string
	static   noise.DHKey
	trust    []byte
	leases   map[lease.ClaimID][]byte
	holds    []byte
	written  uint64
}

// Copy is the disk of a cloned machine.
func (d *Disk) Copy() *Disk {
	c := *d
	c.leases = map[lease.ClaimID][]byte{}
	for k, v := range d.leases {
		c.leases[k] = v
	}
	c.holds = slices.Clone(d.holds)
	return &c
}

// Site is a grid on a World: masters are its first bootstrap nodes, and every
// machine has a floppy of its own, wants an address and a name, and keeps its
// disk when it restarts. It does what the daemon does besides core: files,
// clocks and certificates' renewal.
type Site struct {
	*World
	*Founding
	Plain bool // sessions are package scenario's stand-in
	Disks map[*Machine]*Disk
	// Told are the alarms of each machine, but those of a grid's beginning.
	Told map[*Machine][]core.Alarm
	// Answers of Whois by token.
	Who map[uint64]core.Who
	// Leased are the times at which machines came to hold their claim.
	Leased map[*Machine]map[lease.ClaimID]time.Duration
	// Trusted are the versions that machines have last told of.
	Trusted map[*Machine]wire.Versions

	floppyText []byte // of the descriptor that is on all floppies
	errs       []error
}

// NewSite makes a World of a founding.
func NewSite(f *Founding, cfg Config, plain bool) *Site {
	s := &Site{Founding: f, Plain: plain, Disks: map[*Machine]*Disk{}, Who: map[uint64]core.Who{},
		Leased: map[*Machine]map[lease.ClaimID]time.Duration{}, Trusted: map[*Machine]wire.Versions{}, Told: map[*Machine][]core.Alarm{}, floppyText: f.Grid.Descriptor.Text()}
	cfg.Identify, cfg.Told = s.identify, s.told
	s.World = Make(cfg)
	for i, m := range s.Bootstraps {
		if i < len(f.Grid.Material) {
			s.Disks[m] = &Disk{user: f.Grid.Material[i].Name, keyName: f.Grid.Material[i].Name}
		}
	}
	return s
}

// identify gives a machine its disk, if it has none, and makes its node.
func (s *Site) identify(w *World, m *Machine) (Identity, error) {
	d := s.Disks[m]
	if d == nil {
		d = &Disk{user: fmt.Sprintf("user%d", m.Host.Name), keyName: fmt.Sprintf("node%d", m.Host.Name)}
		s.Disks[m] = d
	}
	var seed [32]byte
	for i := range 4 {
		binary.BigEndian.PutUint64(seed[8*i:], w.chance.Uint64())
	}
	random := rand.NewChaCha8(seed)
	floppy, err := s.floppy(d.user)
	if err != nil {
		return Identity{}, err
	}
	if d.key == nil {
		if d.key, err = s.key(d.keyName); err != nil {
			return Identity{}, err
		}
		if d.static, err = noise.DH25519.GenerateKeypair(random); err != nil {
			return Identity{}, err
		}
		d.Instance = fmt.Sprintf("vm-%d", m.Host.Name)
		d.leases = map[lease.ClaimID][]byte{}
	}
	memory := new(credential.Trust)
	if d.trust != nil {
		memory, err = credential.ParseTrust(d.trust)
	} else {
		_, err = memory.AcceptDescriptor(s.floppyText)
	}
	if err != nil {
		return Identity{}, err
	}
	return s.node(m, d, floppy, memory, random)
}

func (s *Site) node(m *Machine, d *Disk, floppy *credential.Identity, memory *credential.Trust, random *rand.ChaCha8) (Identity, error) {
	chain, err := s.chain(d, m.Host.Now())
	if err != nil {
		return Identity{}, err
	}
	trust, err := core.NewTrust(memory)
	if err != nil {
		return Identity{}, err
	}
	grid, err := core.NewGrid(core.GridConfig{Trust: trust, Chain: chain, Key: d.key, Holds: slices.Clone(d.holds)}, m.Host.Now())
	if err != nil {
		return Identity{}, err
	}
	d.written = 0
	who := Identity{ID: nodeid.ID(credential.NodeIDOf(&d.key.PublicKey)), Holder: wire.Holder(floppy.Holder.Key[:8]), Grid: grid}
	if s.Plain {
		who.Links = newPlain(who.ID, who.Holder)
		return who, nil
	}
	who.Links, err = link.New(link.Config{Rand: s.Split(), Spray: true, Session: session.Config{ID: who.ID, Static: d.static, Chain: chain,
		Roots: [][32]byte{sha256.Sum256([]byte("scenario"))}, Descriptor: s.Grid.Descriptor.Hash(),
		Purposes: []string{session.LinkPurpose, "one"}, AES: true, Random: random, Crypto: session.Real(trust.Verify)}}, m.Host.Now())
	return who, err
}

// Up boots a machine and lets it want its leases.
func (s *Site) Up(m *Machine) {
	delete(s.Leased, m)
	s.Boot(m)
	if d := s.Disks[m]; s.master(m) < 0 {
		m.handle(core.Acquire{Claim: ClaimAddress, Namespace: "one", Saved: d.leases[ClaimAddress]})
		m.handle(core.Acquire{Claim: ClaimName, Namespace: "one", Name: s.Name(m), Saved: d.leases[ClaimName]})
	}
	s.renewLater(m, m.Node)
}

// Name is the name that a machine wants.
func (s *Site) Name(m *Machine) string {
	if i := s.master(m); i >= 0 {
		return s.Grid.Material[i].Name
	}
	return "host-" + s.Disks[m].user
}

// master says which master a machine is, or -1.
func (s *Site) master(m *Machine) int {
	i := slices.Index(s.Bootstraps, m)
	if i >= len(s.Grid.Material) {
		return -1
	}
	return i
}

// renewLater makes new certificates every twelve hours.
func (s *Site) renewLater(m *Machine, node *core.Node) {
	s.After(12*time.Hour, func() {
		if m.Node != node {
			return
		}
		chain, err := s.chain(s.Disks[m], m.Host.Now())
		if err != nil {
			s.errs = append(s.errs, err)
			return
		}
		m.handle(core.Identity{Chain: chain})
		s.renewLater(m, node)
	})
}

// told does what a node wants of its daemon.
func (s *Site) told(m *Machine, a core.Action) {
	switch a := a.(type) {
	case core.Persist:
		s.persist(m, a)
	case core.Leased:
		if a.State == lease.Holding && s.Leased[m] == nil {
			s.Leased[m] = map[lease.ClaimID]time.Duration{}
		}
		if _, ok := s.Leased[m][a.Claim]; a.State == lease.Holding && !ok {
			s.Leased[m][a.Claim] = s.Now()
		}
	case core.Alarm:
		if a.Text != string(lease.AlarmNoMemory) {
			s.Told[m] = append(s.Told[m], a)
		}
	case core.Who:
		s.Who[a.Token] = a
	case core.Trusted:
		s.Trusted[m] = a.Versions
	}
}

// diskTime is how long a write takes to be safe.
const diskTime = 2 * time.Millisecond

func (s *Site) persist(m *Machine, a core.Persist) {
	d, node := s.Disks[m], m.Node
	data := slices.Clone(a.Data)
	switch a.File {
	case core.TrustFile:
		d.trust = data
	case core.LeaseFile:
		d.leases[a.Claim] = data
	case core.HoldsFile:
		s.After(diskTime, func() {
			if m.Node != node {
				return // it crashed before
			}
			if a.N <= d.written {
				s.errs = append(s.errs, fmt.Errorf("hold %d written after %d", a.N, d.written))
			}
			d.written = a.N
			if a.Append {
				d.holds = append(d.holds, data...)
			} else {
				d.holds = data
			}
			m.handle(core.Persisted{N: a.N})
		})
	}
}

// Address returns what a machine may send from now.
func (s *Site) Address(m *Machine) (netip.Addr, bool) {
	if i := s.master(m); i >= 0 {
		return s.Grid.Material[i].Address, true
	}
	if m.Node == nil || !m.Node.MaySend(ClaimAddress, m.Host.Now()) {
		return netip.Addr{}, false
	}
	_, l := m.Node.Lease(ClaimAddress)
	return l.Key.Addr(), true
}

// Start starts masters, then machines at a rate a second, and lets a time pass.
func (s *Site) Start(rate int, settle time.Duration) {
	for i, m := range s.Bootstraps {
		s.After(time.Duration(i)*100*time.Millisecond, func() { s.Up(m) })
	}
	for i, m := range s.World.Machines {
		s.After(5*time.Second+time.Duration(i)*time.Second/time.Duration(rate), func() { s.Up(m) })
	}
	s.Run(s.Now() + 5*time.Second + time.Duration(len(s.World.Machines)/rate)*time.Second + settle)
}

// All are the machines that run.
func (s *Site) All() (all []*Machine) {
	for _, m := range slices.Concat(s.Bootstraps, s.World.Machines) {
		if m.Node != nil {
			all = append(all, m)
		}
	}
	return all
}

// Ask asks every machine for all of some names, one a machine and 20 ms, and
// returns the tokens' questions.
func (s *Site) Ask(names []string) map[uint64]string {
	asked := map[uint64]string{}
	at := s.Now()
	for i, m := range s.All() {
		for j, name := range names {
			s.token++
			token := s.token
			asked[token] = name
			s.At(at+time.Duration(j)*200*time.Millisecond+time.Duration(i)*5*time.Millisecond, func() {
				if m.Node != nil {
					m.handle(core.Whois{Token: token, Name: name})
				}
			})
		}
	}
	s.Run(at + time.Duration(len(names))*200*time.Millisecond + 6*time.Second)
	return asked
}
