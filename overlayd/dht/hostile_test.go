package dht

import (
	"fmt"
	"testing"
	"time"

	"gridappliance/credential"
	"gridappliance/overlayd/nodeid"
	"gridappliance/overlayd/piece"
	"gridappliance/overlayd/wire"
)

// evils are what a store node can do to a Get.
var evils = map[string]func(old *piece.Object) func(n *network, me *node, e Received) bool{
	"silent": func(*piece.Object) func(*network, *node, Received) bool {
		return func(*network, *node, Received) bool { return true }
	},
	"denies": func(*piece.Object) func(*network, *node, Received) bool {
		return func(n *network, me *node, e Received) bool {
			g, err := wire.ParseGet(e.Body)
			if e.Type != wire.TypeGet || err != nil {
				return false
			}
			me.machine.tell(e.Src, e.RPC, wire.TypeRecords, wire.Records{Key: g.Key})
			n.route(me, me.machine.actions[len(me.machine.actions)-1].(Route))
			return true
		}
	},
	"replays": func(old *piece.Object) func(*network, *node, Received) bool {
		record := must(ParseRecord(old.Bytes()))
		return answering(func(g wire.Get) []wire.Stored {
			return []wire.Stored{storedOf(record, old, record.Lifetime)}
		}, old)
	},
	"claims the newest": func(old *piece.Object) func(*network, *node, Received) bool {
		record := must(ParseRecord(old.Bytes()))
		return answering(func(g wire.Get) []wire.Stored {
			s := storedOf(record, old, record.Lifetime)
			s.Seq, s.Root[0] = s.Seq+1e9, s.Root[0]^1
			return []wire.Stored{s}
		}, nil)
	},
	"forges": func(old *piece.Object) func(*network, *node, Received) bool {
		forged := must(ParseRecord(old.Bytes()))
		forged.Seq, forged.Value = forged.Seq+1e6, []byte("forged")
		object := piece.New(forged.Append(nil))
		return answering(func(g wire.Get) []wire.Stored {
			return []wire.Stored{storedOf(forged, object, forged.Lifetime)}
		}, object)
	},
	"names accomplices": func(*piece.Object) func(*network, *node, Received) bool {
		return func(n *network, me *node, e Received) bool {
			g, err := wire.ParseGet(e.Body)
			if e.Type != wire.TypeGet || err != nil {
				return false
			}
			answer := wire.Records{Key: g.Key}
			for i := range byte(wire.MaxReplicas) {
				id := g.Key
				id[nodeid.Size-2] ^= i + 1
				answer.Replicas = append(answer.Replicas, wire.Replica{ID: id, Holder: wire.Holder{i, 7}})
			}
			n.route(me, Route{To: wire.Target{ID: e.Src, Exact: true}, RPC: e.RPC, Type: wire.TypeRecords, Body: answer.Append(nil)})
			return true
		}
	},
}

// answering answers every Get with the same, and serves one object.
func answering(what func(g wire.Get) []wire.Stored, object *piece.Object) func(*network, *node, Received) bool {
	return func(n *network, me *node, e Received) bool {
		to := wire.Target{ID: e.Src, Exact: true}
		switch e.Type {
		case wire.TypeGet:
			g := must(wire.ParseGet(e.Body))
			answer := wire.Records{Key: g.Key, Replicas: me.machine.nearest(g.Key), Records: what(g)}
			n.route(me, Route{To: to, RPC: e.RPC, Type: wire.TypeRecords, Body: answer.Append(nil)})
			return true
		case wire.TypeStoreFetch:
			f := must(wire.ParseFetch(e.Body))
			if object != nil && f.Root == object.ID().Root {
				for _, p := range object.Serve(f) {
					n.route(me, Route{To: to, Type: wire.TypeStorePiece, Body: p.Append(nil)})
				}
				return true
			}
		}
		return false
	}
}

// outvote has some of the five stores of a record turn evil after it was
// changed, and looks it up from everywhere.
func outvote(t *testing.T, what string, seed uint64, bad int, r *rules) (wrong, slow, asked int, counted Counters) {
	n := newNetwork(t, seed)
	n.rules = r
	n.build(40, 40)
	owner := n.nodes[0]
	name := service("web")
	n.handle(owner, Publish{Name: name, Value: []byte("old")})
	n.run(3 * time.Second)
	old := owner.machine.publication(name).object
	n.run(2 * time.Second)
	n.handle(owner, Publish{Name: name, Value: []byte("new")})
	n.run(3 * time.Second)
	stores := n.stores(name)
	for i := range bad {
		at := (i + int(seed)) % len(stores)
		stores[at].evil = evils[what](old)
	}
	for _, m := range n.live() {
		if m.evil != nil || m == owner {
			continue
		}
		begin := n.now
		got := n.ask(m, name)
		asked++
		if values(got) != "[new]" {
			wrong++
		}
		if n.now.Sub(begin) > lookupTime+200*time.Millisecond {
			slow++
		}
		c := m.machine.Counters()
		counted.BadSign += c.BadSign
		counted.Old += c.Old
		counted.Lost += c.Lost
		counted.Timeouts += c.Timeouts
	}
	return wrong, slow, asked, counted
}

// TestTwoOfFiveStoresAreEvil: they can delay, nothing else, and it is counted.
func TestTwoOfFiveStoresAreEvil(t *testing.T) {
	for what := range evils {
		t.Run(what, func(t *testing.T) {
			var all Counters
			for seed := range uint64(3) {
				wrong, slow, asked, c := outvote(t, what, seed, 2, nil)
				if wrong > 0 || slow > 0 {
					t.Errorf("seed %d: of %d readers %d were wrong, %d waited for more than %v", seed, asked, wrong, slow, lookupTime)
				}
				all.BadSign += c.BadSign
				all.Lost += c.Lost
				all.Timeouts += c.Timeouts
			}
			switch {
			case what == "silent" && all.Timeouts == 0, what == "forges" && all.BadSign == 0, what == "claims the newest" && all.Lost == 0:
				t.Errorf("it was not counted: %+v", all)
			}
		})
	}
	for _, what := range []string{"denies", "replays"} {
		wrong := 0
		for seed := range uint64(3) {
			w, _, _, _ := outvote(t, what, seed, 2, &rules{perHolder: true, handover: true, readers: 1})
			wrong += w
		}
		if wrong == 0 {
			t.Errorf("mutant that believes one replica: never wrong when two of five %s, so the test tests nothing", what)
		}
		t.Logf("mutant that believes one replica, two of five %s: %d of 111 wrong", what, wrong)
	}
}

// surrounded has all ring positions around the key of a witnessed record taken
// by an attacker with many holders, and says how many readers are misled.
func surrounded(t *testing.T, what string, askWitnesses bool) (misled, asked int) {
	master := func(o *credential.Node) { o.Role = credential.RoleMaster }
	n := newNetwork(t, 9)
	for i := range 5 {
		n.witnesses = append(n.witnesses, n.add(n.randomID(), 200+i, master).id)
	}
	n.build(40, 40)
	name := Name{KindMasters, "archer", ""}
	n.handle(n.nodes[0], Publish{Name: name, Value: []byte("old")})
	n.run(3 * time.Second)
	old := n.nodes[0].machine.publication(name).object
	n.handle(n.nodes[0], Publish{Name: name, Value: []byte("new")})
	n.run(3 * time.Second)
	for i := range 41 { // as dense as six nodes for one, over the places of seven
		id := shift(name.Key(), uint64(i-20)*(1<<63/45/3))
		n.add(id, 300+i, nil).evil = evils[what](old)
	}
	n.settle()
	n.run(time.Second)
	n.handle(n.nodes[0], Publish{Name: name, Value: []byte("newest")})
	n.run(5 * time.Second)
	if !askWitnesses {
		n.witnesses = nil
	}
	for _, m := range n.live() {
		if m.evil != nil {
			continue
		}
		if asked++; values(n.ask(m, name)) != "[newest]" {
			misled++
		}
	}
	return misled, asked
}

// TestGroundNodeGainsNothing: whoever sits around the key of a record that the
// grid depends on neither hides nor changes it.
func TestGroundNodeGainsNothing(t *testing.T) {
	for what := range evils {
		if misled, asked := surrounded(t, what, true); misled > 0 {
			t.Errorf("%s: %d of %d readers misled", what, misled, asked)
		}
	}
	misled := 0
	for what := range evils {
		m, asked := surrounded(t, what, false)
		t.Logf("mutant that asks no witnesses, 41 nodes around the key, %s: %d of %d misled", what, m, asked)
		misled += m
	}
	if misled == 0 {
		t.Error("mutant that asks no witnesses: nobody misled, so the test tests nothing")
	}
}

// TestRevokedOwner: what a revoked node had stored is not shown any more.
func TestRevokedOwner(t *testing.T) {
	n := newNetwork(t, 10)
	n.build(20, 20)
	name := service("web")
	n.handle(n.nodes[0], Publish{Name: name, Value: []byte("x")})
	n.run(3 * time.Second)
	n.ask(n.nodes[7], name)
	n.revoked[credential.NodeID(n.nodes[0].id)] = true
	n.kill(n.nodes[0])
	for _, m := range n.live() {
		n.handle(m, TrustChanged{})
	}
	for _, i := range []int{7, 8} {
		if r := n.ask(n.nodes[i], name); len(r.Records) != 0 {
			t.Errorf("node %d found %v", i, values(r))
		}
	}
	if got := n.stores(name); len(got) > 2 {
		t.Errorf("%d stores that were asked still have it", len(got))
	}
}

// TestStrayAnswers: answers are taken from who was asked, to what was asked.
func TestStrayAnswers(t *testing.T) {
	n := newNetwork(t, 11)
	n.build(10, 10)
	m := n.nodes[0].machine
	name := service("web")
	actions := m.Handle(n.now, Lookup{ID: 1, Name: name})
	var exact Route
	for _, a := range actions {
		if r, ok := a.(Route); ok {
			exact = r
		}
	}
	if exact.RPC == 0 {
		t.Fatal("asked nobody")
	}
	body := wire.Records{Key: name.Key()}.Append(nil)
	other := wire.Records{Key: service("other").Key()}.Append(nil)
	put := wire.PutAnswer{Key: name.Key(), Status: wire.PutStored}.Append(nil)
	for i, e := range []Received{
		{n.nodes[1].id, exact.RPC + 1, wire.TypeRecords, body},
		{n.nodes[1].id, exact.RPC, wire.TypeRecords, other},
		{n.nodes[1].id, exact.RPC, wire.TypePutAnswer, put},
	} {
		m.Handle(n.now, e)
		if got := m.Counters().Stray; got != uint64(i+1) {
			t.Errorf("answer %d: %d strays counted", i, got)
		}
	}
}

// TestPutRefuses walks the checks of a store, each with a record that passes
// all others.
func TestPutRefuses(t *testing.T) {
	n := newNetwork(t, 12)
	n.loss, n.rules = 0, &rules{perHolder: true, readers: 3}
	n.build(8, 8)
	owner := n.nodes[0]
	name := service("web")
	good := func(change func(*Record)) *piece.Object {
		r := Record{
			Name: name, Seq: uint64(n.now.UnixMilli()), Lifetime: 60 * time.Second, Owner: owner.id,
			Chain: owner.machine.chains.mine.ID(), Value: []byte("x"),
		}
		if change != nil {
			change(&r)
		}
		r.Signature = fakeSignature(owner.crypto.owner.ID, r.Digest())
		return piece.New(r.Append(nil))
	}
	offer := func(o *piece.Object, change func(*wire.Put)) (wire.PutAnswer, Counters) {
		n.boot(n.nodes[1])
		n.settle()
		store := n.nodes[1]
		r, err := ParseRecord(o.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		first := o.Cut(0)
		p := wire.Put{Key: r.Key(), Stored: storedOf(r, o, r.Lifetime), Piece: &first}
		if change != nil {
			change(&p)
		}
		var answer wire.PutAnswer
		owner.evil = func(_ *network, _ *node, e Received) bool {
			if e.Type == wire.TypePutAnswer {
				answer = must(wire.ParsePutAnswer(e.Body))
			}
			return e.Type == wire.TypePutAnswer
		}
		owner.machine.publications = []*publication{{name: name, object: o}} // so that it is served
		n.handle(store, Received{owner.id, 77, wire.TypePut, p.Append(nil)})
		n.run(4 * time.Second)
		return answer, store.machine.Counters()
	}
	if a, c := offer(good(nil), nil); a.Status != wire.PutStored || c.Stored != 1 {
		t.Fatalf("a good record: status %d, %+v", a.Status, c)
	}
	if a, c := offer(good(nil), func(p *wire.Put) { p.Piece = nil }); a.Status != wire.PutStored || c.Stored != 1 {
		t.Fatalf("a good record without its piece: status %d, %+v", a.Status, c)
	}
	count := func(c Counters) map[string]uint64 {
		return map[string]uint64{"time": c.BadTime, "form": c.BadForm, "chain": c.BadChain, "right": c.BadRight, "sign": c.BadSign,
			"false": c.FalsePieces, "lost": c.Lost, "foreign": c.Foreign, "malformed": c.Malformed}
	}
	for what, test := range map[string]struct {
		record  func(*Record)
		object  func(*piece.Object) *piece.Object
		put     func(*wire.Put)
		counter string
	}{
		"from the future":   {record: func(r *Record) { r.Seq += uint64((Skew + 2*time.Minute).Milliseconds()) }, counter: "time"},
		"from the past":     {record: func(r *Record) { r.Seq -= uint64((Skew + 2*time.Minute).Milliseconds()) }, counter: "time"},
		"huge seq":          {record: func(r *Record) { r.Seq = 1<<64 - 1 }, counter: "time"},
		"role":              {record: func(r *Record) { r.Name = service("collector") }, counter: "right"},
		"namespace":         {record: func(r *Record) { r.Namespace = "other" }, counter: "right"},
		"locator of other":  {record: func(r *Record) { r.Name = Name{KindLocator, "archer", n.nodes[3].id.String()} }, counter: "right"},
		"name without hold": {record: func(r *Record) { r.Name = Name{KindName, "archer", "host"} }, counter: "right"},
		"route":             {record: func(r *Record) { r.Name = Name{KindRoute, "archer", "192.168.0.0/16"} }, counter: "right"},
		"owner":             {record: func(r *Record) { r.Owner = n.nodes[3].id }, counter: "right"},
		"chain nobody has":  {record: func(r *Record) { r.Chain.Root[0] ^= 1 }, counter: "lost"},
		"signature": {object: func(o *piece.Object) *piece.Object {
			r := must(ParseRecord(o.Bytes()))
			r.Value = []byte("y")
			return piece.New(r.Append(nil))
		}, counter: "sign"},
		"key":         {put: func(p *wire.Put) { p.Key[15] ^= 1 }, counter: "form"},
		"seq":         {put: func(p *wire.Put) { p.Stored.Seq++ }, counter: "form"},
		"other owner": {put: func(p *wire.Put) { p.Stored.Owner[0] ^= 1 }, counter: "form"},
		"false piece": {put: func(p *wire.Put) { p.Piece.Data = append([]byte{}, p.Piece.Data...); p.Piece.Data[0] ^= 1 }, counter: "false"},
		"huge":        {put: func(p *wire.Put) { p.Stored.Size = MaxRecord + 1 }, counter: "foreign"},
	} {
		t.Run(what, func(t *testing.T) {
			o := good(test.record)
			if test.object != nil {
				o = test.object(o)
			}
			a, c := offer(o, test.put)
			if a.Status != wire.PutInvalid || c.Stored != 0 || count(c)[test.counter] != 1 {
				t.Errorf("status %d, counters %+v", a.Status, c)
			}
		})
	}
}

// TestKeyFull: one key has 8 owners, two of a holder; the first stay.
func TestKeyFull(t *testing.T) {
	n := newNetwork(t, 13)
	n.loss = 0
	n.build(10, 5) // two nodes of each holder
	name := service("web")
	for _, m := range n.nodes {
		n.handle(m, Publish{Name: name, Value: []byte("x")})
		n.run(3 * time.Second)
	}
	third := n.add(n.randomID(), 0, nil)
	n.run(8 * time.Second)
	n.handle(third, Publish{Name: name, Value: []byte("third")})
	n.run(3 * time.Second)
	for _, m := range n.stores(name) {
		under := m.machine.store.under(name.Key())
		if len(under) > wire.MaxStored {
			t.Errorf("%d records under one key", len(under))
		}
		for _, e := range under {
			if e.record.Owner == third.id {
				t.Error("a third owner of one holder is stored")
			}
		}
	}
	if r := n.ask(n.nodes[9], name); len(r.Records) != wire.MaxStored {
		t.Errorf("found %d", len(r.Records))
	}
}

func TestRights(t *testing.T) {
	worker := credential.Node{ID: credential.NodeID{1}, Namespace: "archer", Role: credential.RoleWorker}
	master, client, witness, router := worker, worker, worker, worker
	master.Role, client.Role, witness.Group = credential.RoleMaster, credential.RoleClient, credential.GroupWitnesses
	router.Rights.Routes = prefixes("192.168.0.0/16")
	gateway := router
	gateway.Rights.Gateway = true
	id := nodeid.ID{1}
	for _, test := range []struct {
		name  Name
		owner credential.Node
		want  bool
	}{
		{Name{KindLocator, "archer", id.String()}, worker, true},
		{Name{KindLocator, "archer", nodeid.ID{2}.String()}, worker, false},
		{Name{KindLocator, "other", id.String()}, worker, false},
		{service("web"), worker, true},
		{service("startd"), worker, true},
		{service("startd"), client, false},
		{service("schedd"), client, true},
		{service("schedd"), worker, false},
		{service("collector"), master, true},
		{service("collector"), client, false},
		{service("issuer"), worker, false},
		{Name{KindRoute, "archer", "192.168.7.0/24"}, router, true},
		{Name{KindRoute, "archer", "192.168.0.0/16"}, router, true},
		{Name{KindRoute, "archer", "192.0.0.0/8"}, router, false},
		{Name{KindRoute, "archer", "10.0.0.0/24"}, router, false},
		{Name{KindRoute, "archer", "0.0.0.0/0"}, router, false},
		{Name{KindRoute, "archer", "0.0.0.0/0"}, gateway, true},
		{Name{KindMasters, "archer", ""}, master, true},
		{Name{KindMasters, "archer", ""}, witness, false},
		{Name{KindDescriptor, "", ""}, master, true},
		{Name{KindDescriptor, "", ""}, witness, true},
		{Name{KindRevocations, "", ""}, worker, false},
		{Name{KindName, "archer", "host"}, worker, true},
		{Name{KindName, "archer", "taken"}, worker, false},
	} {
		if err := test.name.check(); err != nil {
			t.Errorf("%v: %v", test.name, err)
		}
		right := func(n Name, _ *credential.Node, _ []byte, _ time.Time) error {
			if n.Name == "taken" {
				return fmt.Errorf("another's")
			}
			return nil
		}
		if err := checkRight(Record{Name: test.name, Owner: id}, &test.owner, right, start); (err == nil) != test.want {
			t.Errorf("%v by %v: %v", test.name, test.owner.Role, err)
		}
	}
	for _, bad := range []Name{
		{0, "archer", "web"}, {99, "archer", "web"}, {KindService, "", "web"}, {KindService, "archer", ""},
		{KindService, "archer", "Web"}, {KindService, "a b", "web"}, {KindRoute, "archer", "192.168.7.1/24"},
		{KindRoute, "archer", "x"}, {KindLocator, "archer", "x"}, {KindMasters, "archer", "x"}, {KindDescriptor, "archer", ""},
	} {
		if bad.check() == nil {
			t.Errorf("%v is a name", bad)
		}
	}
}
