package format

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"

	"gridappliance/builder/disk"
)

// The qcow2 format, version 3 (QEMU, docs/interop/qcow2.txt). All numbers are
// big-endian. What we write: clusters of 64 KiB, 16-bit reference counts, no
// compression, no encryption, no snapshots, no backing file.
//
//	offset size field
//	     0    4 magic "QFI\xfb"
//	     4    4 version 3
//	     8    8 backing file name's offset: 0
//	    16    4 its length: 0
//	    20    4 cluster bits: 16
//	    24    8 virtual size in bytes
//	    32    4 encryption: 0
//	    36    4 entries in the L1 table
//	    40    8 offset of the L1 table
//	    48    8 offset of the reference count table
//	    56    4 clusters in the reference count table
//	    60    4 snapshots: 0
//	    64    8 snapshot table's offset: 0
//	    72    8 incompatible features: 0
//	    80    8 compatible features: 0
//	    88    8 autoclear features: 0
//	    96    4 reference count order: 4 (16 bits)
//	   100    4 header length: 104
//	   104    8 end of header extensions: type 0, length 0
//
// An L1 entry holds the offset of an L2 table, an L2 entry that of a data
// cluster; bit 63 says that its reference count is exactly one; 0 reads as
// zeros. The file's clusters, in order:
//
//	header | L1 | data ... L2 | data ... L2 | ... | count blocks | count table
//
// so that one pass over the disk writes everything but header and L1 in
// ascending order. Every cluster has reference count 1.
const (
	qcowMagic        = 0x514649fb
	qcowClusterBits  = 16
	qcowCluster      = 1 << qcowClusterBits
	qcowHeaderLength = 104
	qcowL2Entries    = qcowCluster / 8
	qcowL2Span       = int64(qcowL2Entries) * qcowCluster // bytes one L2 table describes: 512 MiB
	qcowCounts       = qcowCluster / 2                    // reference counts in a block
	qcowCopied       = 1 << 63
)

// QCOW2 writes the disk as a sparse qcow2 image. Clusters of zeros are left out.
func QCOW2(ctx context.Context, w *os.File, im *disk.Image) error {
	q := &qcowWriter{w: w, im: im, l1: make([]uint64, ceilDiv(im.Size(), qcowL2Span)), blocks: newBlocks(im, qcowCluster)}
	q.next = 1 + ceilDiv(int64(len(q.l1))*8, qcowCluster) // header, L1
	for i := range q.l1 {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := q.writeSpan(i); err != nil {
			return err
		}
	}
	if err := q.writeTables(); err != nil {
		return err
	}
	return w.Truncate(q.next * qcowCluster)
}

type qcowWriter struct {
	w    *os.File
	im   *disk.Image
	l1   []uint64
	next int64 // the first free cluster of the file

	blocks *blocks
}

// writeSpan writes the data clusters and the L2 table of L1 entry i.
func (q *qcowWriter) writeSpan(i int) error {
	start := int64(i) * qcowL2Span
	end := min(start+qcowL2Span, q.im.Size())
	var l2 []uint64
	for pos, data := range q.blocks.in(start, end) {
		if l2 == nil {
			l2 = make([]uint64, qcowL2Entries)
		}
		l2[(pos-start)>>qcowClusterBits] = uint64(q.next<<qcowClusterBits) | qcowCopied
		if err := q.put(data); err != nil {
			return err
		}
	}
	if l2 == nil || q.blocks.err != nil {
		return q.blocks.err
	}
	q.l1[i] = uint64(q.next<<qcowClusterBits) | qcowCopied
	return q.put(bigEndian64(l2))
}

// put writes b, at most one cluster's bytes or several whole ones, to the next
// free cluster.
func (q *qcowWriter) put(b []byte) error {
	_, err := q.w.WriteAt(b, q.next*qcowCluster)
	q.next += ceilDiv(int64(len(b)), qcowCluster)
	return err
}

// writeTables writes the reference counts, then L1 and header.
func (q *qcowWriter) writeTables() error {
	blocks, tables := countClusters(q.next)
	total := q.next + blocks + tables
	table := make([]uint64, blocks)
	for i := range table {
		table[i] = uint64(q.next << qcowClusterBits)
		n := min(total-int64(i)*qcowCounts, qcowCounts)
		if err := q.put(bytes.Repeat([]byte{0, 1}, int(n))); err != nil {
			return err
		}
	}
	tableAt := q.next
	if err := q.put(bigEndian64(table)); err != nil {
		return err
	}
	if q.next != total {
		return fmt.Errorf("qcow2: %d clusters written, %d counted", q.next, total)
	}
	if _, err := q.w.WriteAt(bigEndian64(q.l1), qcowCluster); err != nil {
		return err
	}
	be := binary.BigEndian
	h := make([]byte, qcowHeaderLength+8)
	be.PutUint32(h[0:], qcowMagic)
	be.PutUint32(h[4:], 3)
	be.PutUint32(h[20:], qcowClusterBits)
	be.PutUint64(h[24:], uint64(q.im.Size()))
	be.PutUint32(h[36:], uint32(len(q.l1)))
	be.PutUint64(h[40:], qcowCluster)
	be.PutUint64(h[48:], uint64(tableAt)<<qcowClusterBits)
	be.PutUint32(h[56:], uint32(tables))
	be.PutUint32(h[96:], 4)
	be.PutUint32(h[100:], qcowHeaderLength)
	_, err := q.w.WriteAt(h, 0)
	return err
}

// countClusters returns how many clusters of reference counts and of their
// table a file needs that has used clusters without them; both count themselves.
func countClusters(used int64) (blocks, tables int64) {
	for {
		total := used + blocks + tables
		b := ceilDiv(total, qcowCounts)
		t := ceilDiv(b*8, qcowCluster)
		if b == blocks && t == tables {
			return blocks, tables
		}
		blocks, tables = b, t
	}
}

func bigEndian64(values []uint64) []byte {
	b := make([]byte, 8*len(values))
	for i, v := range values {
		binary.BigEndian.PutUint64(b[8*i:], v)
	}
	return b
}
