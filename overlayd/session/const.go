package session

import "time"

// Protocol: changing one of these breaks interoperation.
const (
	Version = 1 // in the prologue and in every HELLO

	// MaxMessage is the longest handshake datagram on a direct or relayed path
	// and what a first message is padded to there.
	MaxMessage = 1200
	// MaxRing is the same on the ring path: with the header of a routed message
	// and the record of each hop around it, it still is at most 1,252.
	MaxRing = 1100

	HeaderSize = 12                    // of a record
	TagSize    = 16                    // of a record's AEAD
	Overhead   = HeaderSize + TagSize  // of a record
	RelayTag   = 12                    // of a relayed datagram: the AEAD's tag, cut
	RelaySize  = HeaderSize + RelayTag // what relaying adds

	MaxPaths = 16      // path ids are 0 to 15
	Window   = 2048    // records a path may be reordered by
	maxCount = 1 << 32 // records per key and path

	KeyLife     = 120 * time.Second // no record is sealed under an older key
	KeyOverlap  = 10 * time.Second  // the previous key opens for so long
	cookieLife  = 120 * time.Second // of a cookie's secret; the one before counts too
	maxParts    = 24                // of one handshake message: three certificates of 8 KiB
	cookieSize  = 16                //
	maxOffer    = 512               // bytes an application may put into a handshake payload
	LinkPurpose = "link"            // no namespace has this name
)

// Implementation: tunable at will.
const (
	rekeyInitiator = 100 * time.Second // who opened the session renews it first
	rekeyResponder = 110 * time.Second // and the other when that did not happen
	tries          = 5                 // of a message that is not answered
	firstRetry     = 100 * time.Millisecond
	ringRetry      = 300 * time.Millisecond // at least, over the ring: several hops each way
	maxCookies     = 3                      // that one attempt follows
	halfOpenLife   = 4 * time.Second
	watchEvery     = 5 * time.Second // ends of certificates are looked at
	recheckBatch   = 64              // peers verified again in one go
	recheckPause   = 20 * time.Millisecond
	maxJump        = 5 * time.Second // between wall and monotonic clock

	maxHalfOpen  = 256     // answered HELLOs without FINISH
	freeHalfOpen = 64      // of them without a cookie
	maxPerSource = 16      // of them from one address or /64
	maxAttempts  = 1024    // own HELLOs without ANSWER
	maxSessions  = 8192    //
	maxPieces    = 1 << 20 // bytes of unfinished messages
	maxChains    = 1024    // holders remembered
	helloRate    = 250     // HELLOs answered with public-key work, per second
	helloBurst   = 500
)
