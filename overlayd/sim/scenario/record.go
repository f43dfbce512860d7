package scenario

import (
	"time"

	"gridappliance/overlayd/link"
	"gridappliance/overlayd/nodeid"
)

// Recorder is told what happens in a World, as it happens: for pictures, pages
// and reports. Times are the engine's.
type Recorder interface {
	// Started says that a node runs; founder marks bootstrap nodes.
	Started(at time.Duration, id nodeid.ID, founder bool)
	// Member says that a node is on the ring, or no longer.
	Member(at time.Duration, id nodeid.ID, on bool)
	// Died says that a node stopped. What it was connected to is not told.
	Died(at time.Duration, id nodeid.ID)
	// Connected says that id has a connection to peer over a path. It comes
	// from both ends, and again when the path changes.
	Connected(at time.Duration, id, peer nodeid.ID, path link.State)
	// Disconnected says that id has no connection to peer any more.
	Disconnected(at time.Duration, id, peer nodeid.ID)
	// Looked says how a lookup ended.
	Looked(at time.Duration, l Lookup)
	// Marked says what a scenario did: "cut", "heal", "30 % die".
	Marked(at time.Duration, what string)
}
