// Package bench measures overlayd beside other overlays in network namespaces
// of one machine: make bench-overlay.
//
//	   a ─────── veth ─────── b          each with its daemon and an iperf3;
//	tapipop                tapipop       relayed: a ── r ── b, no way but r
//
// Every round starts each contender anew, one after the other, so that what
// else the machine does meets all of them; a round's results are a file in
// BENCH_DIR, and the report takes the medians of all rounds that are there and
// their ratios. Both daemons, iperf3 and the kernel share the machine's
// processors: a throughput is processors divided by cost per byte, only ratios
// of one run mean anything, and the processor time of the daemons per GiB says
// the same more steadily.
//
// The package has nothing but tests. The peers that come as Go modules are
// built from the module in the folder peers, so that the product's go.mod
// knows nothing of them; nebula, tinc and iperf3 are Debian's.
//
// Sources: docs/bench-overlay.md for how each peer is configured.
package bench
