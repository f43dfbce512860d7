package lease

import (
	"net/netip"
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

// Event is what a Holder or a Witness is told. Each ignores and counts those
// that are not for it.
type Event interface{ event() }

// Routed is a payload that arrived over the ring. Src is believed nowhere: all
// that counts is signed.
type Routed struct {
	Src  nodeid.ID
	RPC  uint32
	Type wire.Type
	Body []byte
}

// Descriptor is the grid's descriptor, at the start and whenever a newer one
// counts.
type Descriptor struct {
	Roster Roster
	Policy Policy
}

// Published is what some node's Publish has spread.
type Published struct {
	Type wire.Type // TypeGreet or TypeStopped
	Body []byte
}

// Want asks the Holder for a lease, from now until Unwant. Saved is what its
// last Save for this claim had; a lease of another instance is dropped.
type Want struct {
	Claim     ClaimID
	Namespace string
	Name      string     // "": an address
	Previous  netip.Addr // tried first, if there is no saved lease
	Saved     []byte
}

// Unwant ends a claim: it is not renewed.
type Unwant struct{ Claim ClaimID }

// Rival is another node's certificate that somebody has shown to this one.
type Rival struct{ Certificate wire.LeaseCertificate }

// Resumed says that the machine may have been away: suspended, restored,
// moved. Leases are validated again before they may be used.
type Resumed struct{}

// Persisted says that the records up to N are on disk.
type Persisted struct{ N uint64 }

// Tick says that NextDeadline has come.
type Tick struct{}

func (Routed) event()     {}
func (Descriptor) event() {}
func (Published) event()  {}
func (Want) event()       {}
func (Unwant) event()     {}
func (Rival) event()      {}
func (Resumed) event()    {}
func (Persisted) event()  {}
func (Tick) event()       {}

// Action is what the caller is to do.
type Action interface{ action() }

// Route sends a payload over the ring.
type Route struct {
	To   wire.Target
	RPC  uint32
	Type wire.Type
	Body []byte // the caller's from now on
}

// Persist appends a record to the witness's file and syncs it; Persisted
// follows. Records are to be appended in the order of N.
type Persist struct {
	N      uint64
	Record []byte
}

// Rewrite replaces the witness's file in one step; Persisted follows.
type Rewrite struct {
	N    uint64
	File []byte
}

// Save keeps a claim's lease for Want.Saved; nil: forget it.
type Save struct {
	Claim  ClaimID
	Record []byte
}

// Changed says what a claim has come to. Lease is the zero value unless it may
// be used.
type Changed struct {
	Claim ClaimID
	State State
	Why   Reason
	Lease Lease
}

// WantRoster asks for the descriptor that From has: it knows this epoch.
type WantRoster struct {
	From  nodeid.ID
	Epoch uint64
}

// TellRoster sends this node's descriptor to one that has an older one.
type TellRoster struct{ To nodeid.ID }

// SendChain sends this node's certificate chain to a witness.
type SendChain struct{ To nodeid.ID }

// Publish spreads a signed message to every node: that a witness recovers, or
// that the previous roster has stopped.
type Publish struct {
	Type wire.Type
	Body []byte
}

// Raise raises an alarm that a person must see.
type Raise struct {
	Alarm Alarm
	Node  nodeid.ID     // about whom
	Key   wire.LeaseKey // about what, or zero
}

func (Route) action()      {}
func (Persist) action()    {}
func (Rewrite) action()    {}
func (Save) action()       {}
func (Changed) action()    {}
func (WantRoster) action() {}
func (TellRoster) action() {}
func (SendChain) action()  {}
func (Publish) action()    {}
func (Raise) action()      {}

// Alarm is what an alarm is about.
type Alarm string

// The alarms.
const (
	AlarmTwinWitness  Alarm = "another machine uses this witness's key: it has stopped voting"
	AlarmForgot       Alarm = "this witness was shown what it has signed and does not know: rolled back or copied; it recovers"
	AlarmAlone        Alarm = "this witness lost its holds and is alone: it avoids the addresses that nodes showed"
	AlarmNoMemory     Alarm = "most witnesses have lost their holds, or the grid is new: they avoid the addresses that nodes showed"
	AlarmTwinHolder   Alarm = "another machine renews this node's lease"
	AlarmDoubleLease  Alarm = "two valid leases for one key: witnesses were copied, rolled back or dishonest"
	AlarmEpochSkipped Alarm = "a roster does not follow from the one known: refused"
	AlarmForced       Alarm = "the previous roster was left behind by force"
)

// ClaimID names a claim of a Holder; the caller chooses it.
type ClaimID uint16

// State is a claim's state; see Holder.
type State uint8

// The states.
const (
	Idle       State = iota // no descriptor yet
	Acquiring               // has nothing, asks
	Validating              // has a lease from before, asks before using it
	Holding                 // may be used
	Stopped                 // a twin uses this node's key: asks for nothing more
)

var stateNames = [...]string{"idle", "acquiring", "validating", "holding", "stopped"}

// String returns the state's name.
func (s State) String() string { return stateNames[s] }

// Reason is why a claim changed.
type Reason string

// The reasons.
const (
	ReasonGranted   Reason = "granted"
	ReasonConfirmed Reason = "confirmed"   // a witness knows the lease from before
	ReasonUnreached Reason = "unreached"   // no witness answered; it is still ours
	ReasonReturned  Reason = "returned"    // the machine was away
	ReasonExpired   Reason = "expired"     // not renewed in time
	ReasonNewer     Reason = "newer grant" // somebody else has the key
	ReasonTwin      Reason = "twin"
	ReasonUnwanted  Reason = "unwanted"
)

// Lease is a key that may be used for a while. It is a value: the data plane
// keeps it and asks it.
type Lease struct {
	Key         wire.LeaseKey
	Certificate wire.LeaseCertificate
	until       time.Time // monotonic where the caller's clock is
	wall        time.Time // the same by the wall clock
}

// MaySend says whether the lease is valid at now. Both clocks must agree, so
// that a machine that was suspended does not send on an old lease.
func (l Lease) MaySend(now time.Time) bool { return now.Before(l.until) && now.Round(0).Before(l.wall) }

// Until returns when the lease ends by the holder's own clock.
func (l Lease) Until() time.Time { return l.until }
