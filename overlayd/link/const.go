package link

import "time"

// Protocol: both ends count on these.
const (
	maxProbes    = 20               // to one address that does not answer, in probeWindow
	probeWindow  = 10 * time.Minute //
	sprayPorts   = 256              // sockets of the side with address-dependent mapping
	sprayProbes  = 1024             // of the other side, to random ports
	sprayPace    = 2 * time.Millisecond
	demoteSilent = 1600 * time.Millisecond // sent, and nothing came back: the path is given up
	warmFor      = 30 * time.Second        // the old path is kept after a switch
)

// Implementation: tunable at will. Sources: research/overlay.md §3.2, §9.3.
const (
	pace          = 20 * time.Millisecond // between the first checks of several candidates
	firstInterval = 50 * time.Millisecond // between the first checks of one candidate
	firstRounds   = 5
	maxInterval   = time.Second
	roundLength   = 5 * time.Second
	extraChecks   = 3 // after success, so that the other side's translator opens as well
	retryChecks   = 3 // of a candidate in a later round

	probeEvery    = 400 * time.Millisecond // on a path that was sent on and is silent
	doubtful      = 2                      // such checks without an answer: a relay is asked for besides
	keepalive     = 10 * time.Second       // after the last record of a path
	relayAfter    = 300 * time.Millisecond // without a direct path
	relayRetry    = 10 * time.Second
	neededEvery   = 10 * time.Second // a relay's link is said to be needed
	linkGrace     = 10 * time.Second // a link without a path but the ring's
	ringSilent    = 20 * time.Second
	idleAfter     = 5 * time.Minute // without traffic: nothing keeps a path alive but a link; package vnet ends its sessions then
	betterBy      = 5 * time.Millisecond
	sprayAfter    = 5 * time.Second // of relayed traffic
	sprayPause    = 10 * time.Minute
	sprayHold     = 4 * time.Second
	maxPairs      = 16 // of one peer: 8 named, 8 learned
	maxPeers      = 8192
	maxObservers  = 16
	maxTargets    = 1024 // addresses whose budgets are remembered
	maxAllProbes  = 60   // to one unanswered address for all peers, in probeWindow
	maxRelayWants = 2
	maxQuestions  = 16 // of one path, unanswered
)

// retryRounds are the pauses between rounds of checks; the last one repeats.
var retryRounds = [...]time.Duration{10 * time.Second, 30 * time.Second, 2 * time.Minute}
