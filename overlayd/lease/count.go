package lease

// Counter is something that a Holder or a Witness counts.
type Counter uint8

// The counters; their names are in counterNames.
const (
	CountVotes Counter = iota
	CountNacks
	CountReleases
	CountShows
	CountMalformed
	CountBadSignature
	CountNotMine
	CountUnexpected
	CountOverflow
	CountGrants
	CountRenewals
	CountRounds
	CountRoundsFailed
	CountLost
	CountCopied
	CountEpochSkipped
	counters
)

var counterNames = [counters]string{
	"votes", "nacks", "releases", "shows", "malformed", "bad-signature", "not-mine", "unexpected", "overflow",
	"grants", "renewals", "rounds", "rounds-failed", "lost", "copied", "epoch-skipped",
}

// Counts are a machine's counters.
type Counts [counters]uint64

// Each calls f for every counter in a fixed order.
func (c *Counts) Each(f func(name string, n uint64)) {
	for i, n := range c {
		f(counterNames[i], n)
	}
}
