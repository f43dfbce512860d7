package vnet

import "time"

// Bounds of a Queue: what a sender may put on its way before it is known where
// it goes, which over a ring of 200 ms takes half a second. Implementation.
const (
	queuePackets = 4096    // of one key: 3 s of 1,000 a second
	queueBytes   = 2 << 20 // of one key: half a second of 30 Mbit/s
	queueTotal   = 16 << 20
	queueTime    = 3 * time.Second
	queueKeys    = 1024
)

// Queue keeps packets until it is known where they go, for 3 s at most, in
// order. The zero Queue is ready.
type Queue[K comparable] struct {
	keys  map[K]*waiting
	order []K // by the age of the oldest packet
	bytes int // of all
}

type waiting struct {
	since   time.Time // of the first
	packets [][]byte
	bytes   int
}

// Add keeps a packet, which is the queue's from now on; false: there is no
// room.
func (q *Queue[K]) Add(now time.Time, key K, packet []byte) bool {
	if q.bytes+len(packet) > queueTotal {
		return false
	}
	w := q.keys[key]
	if w == nil {
		if len(q.order) >= queueKeys {
			return false
		}
		if q.keys == nil {
			q.keys = map[K]*waiting{}
		}
		w = &waiting{since: now}
		q.keys[key] = w
		q.order = append(q.order, key)
	}
	if len(w.packets) >= queuePackets || w.bytes+len(packet) > queueBytes {
		return false
	}
	w.packets = append(w.packets, packet)
	w.bytes += len(packet)
	q.bytes += len(packet)
	return true
}

// Waits reports whether packets of a key wait.
func (q *Queue[K]) Waits(key K) bool { return q.keys[key] != nil }

// Take returns and removes the packets of a key.
func (q *Queue[K]) Take(key K) [][]byte {
	w := q.keys[key]
	if w == nil {
		return nil
	}
	delete(q.keys, key)
	q.bytes -= w.bytes
	for i, k := range q.order {
		if k == key {
			q.order = append(q.order[:i], q.order[i+1:]...)
			break
		}
	}
	return w.packets
}

// Expire removes what has waited too long and returns how many packets it was.
func (q *Queue[K]) Expire(now time.Time) (packets int) {
	for len(q.order) > 0 && now.Sub(q.keys[q.order[0]].since) >= queueTime {
		packets += len(q.keys[q.order[0]].packets)
		q.bytes -= q.keys[q.order[0]].bytes
		delete(q.keys, q.order[0])
		q.order = q.order[1:]
	}
	return packets
}
