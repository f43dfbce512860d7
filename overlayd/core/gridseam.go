package core

import (
	"errors"
	"net/netip"
	"time"

	"gridappliance/credential"
	"gridappliance/overlayd/dht"
	"gridappliance/overlayd/lease"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

// Events of a node that is one of a grid; one without Config.Grid ignores them.
type (
	// Acquire asks for an address or a name, from now until GiveUp. Leased
	// says what has become of it.
	Acquire lease.Want

	// GiveUp ends an Acquire: the lease is not renewed.
	GiveUp lease.Unwant

	// Put keeps a record in the store until Withdraw.
	Put dht.Publish

	// Withdraw takes a record back.
	Withdraw dht.Withdraw

	// Get asks for the records of a name. It is answered by Records with the
	// same token.
	Get struct {
		Token uint64
		Name  dht.Name
	}

	// Whois asks which node an address or, if Name is not empty, a host name
	// of this node's namespace belongs to. It is answered by Who with the same
	// token.
	Whois struct {
		Token   uint64
		Address netip.Addr
		Name    string
	}

	// Publish is a descriptor or revocation list that a person gave this node:
	// the text of the file. It is answered by Published.
	Publish struct{ Text []byte }

	// Identity is this node's next certificate chain, for the same key.
	Identity struct{ Chain credential.Chain }

	// Persisted says that Persist actions for Holds up to N are on disk.
	Persisted struct{ N uint64 }

	// Resumed says that this machine may have been away: suspended, restored or
	// moved. All sessions end, and leases are validated before they may be used.
	// A machine whose instance is another begins a new Node instead.
	Resumed struct{}
)

func (Acquire) event()   {}
func (GiveUp) event()    {}
func (Put) event()       {}
func (Withdraw) event()  {}
func (Get) event()       {}
func (Whois) event()     {}
func (Publish) event()   {}
func (Identity) event()  {}
func (Persisted) event() {}
func (Resumed) event()   {}

// File is something that a node keeps on disk.
type File uint8

// The files.
const (
	TrustFile File = iota // for credential.ParseTrust
	LeaseFile             // of one claim, for Acquire.Saved
	HoldsFile             // a witness's, for GridConfig.Holds
)

// Actions of a node that is one of a grid.
type (
	// Persist writes a file: whole and in one step, or Append to its end. No
	// Data at all removes it. For the HoldsFile Persisted must follow, once the
	// data would survive a crash, and writes are in the order of N.
	Persist struct {
		File   File
		Claim  lease.ClaimID // of a LeaseFile
		N      uint64        // of the HoldsFile
		Append bool
		Data   []byte
	}

	// Leased says what an Acquire has come to. MaySend tells for each packet.
	Leased lease.Changed

	// Alarm is something that a person must see.
	Alarm struct {
		Text string
		Node nodeid.ID     // about whom, or zero
		Key  wire.LeaseKey // about what, or zero
	}

	// Records answers a Get. Err is ErrBusy or nil; no record is no error.
	Records struct {
		Token   uint64
		Records []dht.Record
		Err     error
	}

	// Who answers a Whois. Node is nil when only its ID is known. Until is when
	// the lease ends by the witnesses' clocks; zero: a fixed address has no end.
	Who struct {
		Token   uint64
		ID      nodeid.ID
		Address netip.Addr
		Node    *credential.Node
		Until   time.Time
		Err     error // ErrUnknownName, ErrNoAnswer, ErrBusy
	}

	// Stored says how many nodes have confirmed a record of this node.
	Stored dht.Published

	// Published answers Publish: nil when the object was taken, or known.
	Published struct{ Err error }

	// Trusted says that the descriptor or the revocation lists have changed.
	Trusted struct {
		Versions   wire.Versions
		Descriptor bool
	}
)

func (Persist) action()   {}
func (Leased) action()    {}
func (Alarm) action()     {}
func (Records) action()   {}
func (Who) action()       {}
func (Stored) action()    {}
func (Published) action() {}
func (Trusted) action()   {}

// ErrUnknownName says that nobody has shown a lease for an address or a name.
var ErrUnknownName = errors.New("nobody has it")
