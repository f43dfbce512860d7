package session

// windowWords holds the window and one word more, so that moving it forward
// clears whole words only (RFC 6479 §3).
const windowWords = Window/64 + 1

// window is the replay window of one path: which of the last 2,048 counters
// have been seen. The zero value has seen nothing.
type window struct {
	next uint64 // one above the highest counter seen
	bits [windowWords]uint64
}

// fresh reports whether a counter may still be accepted. It changes nothing:
// a record is authenticated between fresh and accept.
func (w *window) fresh(counter uint64) bool {
	if counter >= w.next {
		return true
	}
	if w.next-counter > Window {
		return false
	}
	return w.bits[counter/64%windowWords]&(1<<(counter%64)) == 0
}

// accept marks a counter for which fresh has just been true.
func (w *window) accept(counter uint64) {
	if counter >= w.next {
		first := (w.next + 63) / 64 // word without a counter seen: it may hold those of a round before
		for word := first; word <= counter/64 && word < first+windowWords; word++ {
			w.bits[word%windowWords] = 0
		}
		w.next = counter + 1
	}
	w.bits[counter/64%windowWords] |= 1 << (counter % 64)
}
