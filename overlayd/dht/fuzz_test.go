package dht

import (
	"testing"
	"time"

	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/piece"
	"gridappliance/overlayd/wire"
)

// FuzzMachine plays a script of events, true and hostile, to one machine among
// four; the others are played by the script. After each event checkBounds
// holds.
func FuzzMachine(f *testing.F) {
	f.Add([]byte("\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f"))
	f.Add([]byte{2, 0, 0, 3, 1, 1, 12, 9, 9, 4, 0, 1, 5, 1, 2, 8, 0, 3, 12, 200, 1, 9, 4, 4})
	f.Fuzz(func(t *testing.T, script []byte) {
		n := newNetwork(t, 1)
		n.loss = 0
		me := n.add(nodeid.ID{0: 0x80}, 1, nil)
		var others []*node
		var records []*piece.Object
		for i := range 4 {
			o := n.add(nodeid.ID{0: byte(i * 0x40), 1: 1}, i%2+2, nil)
			others = append(others, o)
			r := Record{Name: service([]string{"a", "b"}[i%2]), Seq: uint64(start.UnixMilli()) + uint64(i), Lifetime: time.Minute,
				Owner: o.id, Chain: o.machine.chains.mine.ID(), Value: make([]byte, 300*i)}
			r.Signature = fakeSignature(o.crypto.owner.ID, r.Digest())
			records = append(records, piece.New(r.Append(nil)))
		}
		var routes []Route
		play := func(e Event) {
			for _, a := range me.machine.Handle(n.now, e) {
				if r, ok := a.(Route); ok {
					if len(r.Body) > wire.MaxPayload {
						t.Fatalf("%v of %d bytes", r.Type, len(r.Body))
					}
					routes = append(routes, r)
				}
			}
			routes = routes[max(0, len(routes)-64):]
			checkBounds(t, me.machine)
			if at := me.machine.NextDeadline(); !at.IsZero() && !at.After(n.now) {
				t.Fatalf("due again at once after %T", e)
			}
		}
		for i := 0; i+2 < len(script); i += 3 {
			op, x, y := script[i]%14, int(script[i+1]), script[i+2]
			from, object := others[x%4], records[int(y)%4]
			record := must(ParseRecord(object.Bytes()))
			say := func(rpc uint32, m wire.Message) { play(Received{from.id, rpc, m.Type(), m.Append(nil)}) }
			var rpc uint32
			if len(routes) > 0 {
				rpc = routes[x%len(routes)].RPC
			}
			switch op {
			case 0:
				play(Received{from.id, rpc, wire.Type(y), script[i:]})
			case 1:
				play(Near{n.around(me)[:int(y)%5]})
			case 2:
				play(Publish{Name: service([]string{"a", "b", "c"}[x%3]), Value: script[i:min(len(script), i+int(y))]})
			case 3:
				play(Lookup{uint64(i), record.Name, y%2 == 1})
			case 4:
				first := object.Cut(0)
				p := wire.Put{Key: record.Key(), Stored: storedOf(record, object, record.Lifetime), Piece: &first}
				if x > 128 {
					p.Piece = nil
				}
				if x&64 != 0 {
					p.Stored.Seq += uint64(y)
				}
				say(uint32(y), p)
			case 5:
				say(rpc, wire.Records{Key: record.Key(), Records: []wire.Stored{storedOf(record, object, time.Minute)},
					Replicas: []wire.Replica{{ID: from.id, Holder: from.holder}, {ID: nodeid.ID{y}}}})
			case 6:
				say(rpc, wire.PutAnswer{Key: service([]string{"a", "b", "c"}[x%3]).Key(), Owner: me.id, Seq: uint64(y) << 56, Status: wire.PutStatus(1 + y%5)})
			case 7, 8: // serve what was asked
				for _, r := range routes {
					if r.Type != wire.TypeStoreFetch {
						continue
					}
					f := must(wire.ParseFetch(r.Body))
					for _, o := range append(records, others[0].machine.chains.mine, others[1].machine.chains.mine, others[2].machine.chains.mine, others[3].machine.chains.mine) {
						for _, p := range o.Serve(f) {
							if op == 8 && x%3 == 0 {
								p.Data = append([]byte{y}, p.Data[1:]...)
							}
							play(Received{r.To.ID, 0, wire.TypeStorePiece, p.Append(nil)})
						}
					}
				}
				routes = nil
			case 9:
				say(uint32(y), wire.Get{Key: record.Key()})
			case 10:
				play(TrustChanged{})
			case 11:
				play(Withdraw{record.Name})
			case 12:
				n.now = n.now.Add(time.Duration(x) * time.Duration(1+y) * time.Millisecond)
				play(Tick{})
			case 13:
				play(Leave{})
			}
		}
	})
}
