package core

// arena keeps the bytes that live until the next Handle.
type arena struct{ chunk []byte }

// Implementation: one Handle seldom needs more than a chunk, and a chunk is
// all that an idle node keeps.
const chunkSize = 4096

func (a *arena) reset() { a.chunk = a.chunk[:0] }

// keep copies b. A full chunk is left to whoever points into it.
func (a *arena) keep(b []byte) []byte {
	if len(a.chunk)+len(b) > cap(a.chunk) {
		a.chunk = make([]byte, 0, max(chunkSize, len(b)))
	}
	start := len(a.chunk)
	a.chunk = append(a.chunk, b...)
	return a.chunk[start:len(a.chunk):len(a.chunk)]
}
