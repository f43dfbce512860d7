package lease

import (
	"slices"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/wire"
)

// makeStop signs that this witness has stopped for the previous roster, once
// enough of the new one have its holds. It has not voted under an older epoch
// since it knows the new roster.
func (w *Witness) makeStop() {
	r := &w.book.current
	if w.stop != nil || w.book.stopped || w.mode != voting || !slices.Contains(r.Previous, w.cfg.ID) {
		return
	}
	have := 0
	for _, id := range r.Witnesses {
		if id == w.cfg.ID || w.handed[id] {
			have++
		}
	}
	if have < cover(len(r.Witnesses)) {
		return
	}
	s := wire.Stop{Witness: w.cfg.ID, Epoch: r.Epoch, Digest: r.Digest()}
	s.Signature = w.cfg.Crypto.Sign(s.Signed(nil))
	w.stop = &s
	w.sendStop()
}

// sendStop tells the new roster's witnesses, again and again until enough have
// stopped.
func (w *Witness) sendStop() {
	w.makeStop()
	if w.stop == nil || w.book.stopped {
		return
	}
	for _, id := range w.book.current.Witnesses {
		if id == w.cfg.ID {
			w.stopBy(w.stop)
		} else {
			w.send(id, 0, *w.stop)
		}
	}
}

// stopBy collects the words of the previous roster's witnesses.
func (w *Witness) stopBy(m *wire.Stop) {
	r := &w.book.current
	if w.book.stopped || m.Epoch != r.Epoch || m.Digest != r.Digest() || !slices.Contains(r.Previous, m.Witness) {
		if w.book.proof != nil && m.Epoch == r.Epoch && slices.Contains(r.Previous, m.Witness) {
			w.send(m.Witness, 0, *w.book.proof)
			return
		}
		w.counts[CountUnexpected]++
		return
	}
	if !w.cfg.Crypto.Verify(m.Witness, &m.Signature, m.Signed(nil)) {
		w.counts[CountBadSignature]++
		return
	}
	w.stops[m.Witness] = m.Signature
	if len(w.stops) < cover(len(r.Previous)) {
		return
	}
	s := wire.Stopped{Epoch: r.Epoch, Digest: r.Digest()}
	for _, id := range r.Previous {
		if sig, ok := w.stops[id]; ok {
			s.Stops = append(s.Stops, wire.StoppedWitness{Witness: id, Signature: sig})
		}
	}
	if w.learnStopped(&s) {
		w.act(Publish{wire.TypeStopped, s.Append(nil)})
	}
}

// learnStopped takes the certificate that the previous roster has stopped.
func (w *Witness) learnStopped(s *wire.Stopped) bool {
	if !w.book.LearnStopped(s) {
		return false
	}
	w.record(appendRecord(nil, recordStopped, s.Append(nil)))
	if w.mode != recovering {
		w.pulls = map[nodeid.ID]*pull{}
	}
	return true
}
