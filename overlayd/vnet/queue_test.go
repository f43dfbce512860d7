package vnet

import (
	"testing"
	"time"
)

// TestQueueIsBounded fills a queue by packets, by bytes, by keys and in all,
// and finds room again once packets are taken or too old.
func TestQueueIsBounded(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	fill := func(q *Queue[int], key, size, most int) (n int) {
		for n < most && q.Add(now, key, make([]byte, size)) {
			n++
		}
		return n
	}
	var q Queue[int]
	if n := fill(&q, 1, 100, 1<<20); n != queuePackets {
		t.Errorf("%d small packets of one key, want %d", n, queuePackets)
	}
	if n := fill(&q, 2, 1024, 1<<20); n != queueBytes>>10 {
		t.Errorf("%d packets of 1 KiB of one key, want %d", n, queueBytes>>10)
	}
	total := 0
	q = Queue[int]{}
	for key := range queueKeys {
		total += fill(&q, key, 1024, 1<<20)
	}
	if total != queueTotal>>10 {
		t.Errorf("%d packets of 1 KiB in all, want %d", total, queueTotal>>10)
	}
	taken := len(q.Take(0))
	if n := fill(&q, 0, 1024, 1<<20); n != taken {
		t.Errorf("room for %d packets after %d were taken", n, taken)
	}
	now = now.Add(queueTime)
	if n := q.Expire(now); n != total || len(q.order) != 0 || q.bytes != 0 {
		t.Errorf("%d packets were too old, want %d", n, total)
	}
	for key := range 2 * queueKeys {
		fill(&q, key, 1, 1)
	}
	if n := len(q.order); n != queueKeys {
		t.Errorf("%d keys, want %d", n, queueKeys)
	}
}
