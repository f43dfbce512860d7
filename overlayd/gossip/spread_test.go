package gossip

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"gridappliance/credential"
	"gridappliance/overlayd/piece"
	"gridappliance/overlayd/wire"
)

// TestRevocationClosesSessions is the promise of TRUST.md: sessions close
// within 10 s on nodes connected to any honest up-to-date member. A third of
// the nodes are evil; every honest node has a session with the revoked one.
func TestRevocationClosesSessions(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			a := newAuthority(t)
			chain, serial := a.member("mallory")
			s := newSwarm(t, seed, 0.05)
			s.ringed(a, 60)
			kinds := []evil{silent, liar(), dripper, flooder()}
			for i := 1; i < 60; i += 3 {
				kinds[i/3%len(kinds)](s, i)
			}
			closed := make([]time.Duration, len(s.nodes))
			published := start.Add(20 * time.Second)
			for i, m := range s.nodes {
				m.onTrust = func(now time.Time) {
					v, err := m.trust.Verifier()
					if err != nil {
						t.Fatal(err)
					}
					if _, err := v.VerifyNode(chain, start); errors.Is(err, credential.ErrRevoked) && closed[i] == 0 {
						closed[i] = now.Sub(published)
					}
				}
			}
			s.run(published)
			_ = s.handle(0, Publish{a.revoke(serial)})
			s.run(published.Add(15 * time.Second))
			last := time.Duration(0)
			for i := range s.nodes {
				if s.nodes[i].evil != nil || i == 0 {
					continue
				}
				if closed[i] == 0 || closed[i] > 10*time.Second {
					t.Errorf("node %d closed its session after %v", i, closed[i])
				}
				last = max(last, closed[i])
			}
			t.Logf("40 honest nodes of 60, 5 %% loss: the last closed after %v; %d messages, %d KiB in 35 s", last, s.sent, s.bytes>>10)
		})
	}
}

// evil turns a node of a swarm.
type evil func(s *swarm, n int)

// silent says it has what everybody has and answers nothing.
func silent(s *swarm, n int) {
	s.nodes[n].claims = s.nodes[n].machine.Versions()
	s.nodes[n].evil = func(*swarm, int, int, Received) {}
}

// liar claims a huge version, another each time, and serves garbage for it.
func liar() evil {
	return func(s *swarm, n int) {
		m := s.nodes[n]
		m.claims = wire.Versions{Descriptor: 1 << 63, Digest: [8]byte{byte(n), 1}}
		served := map[[32]byte]*piece.Object{}
		m.evil = func(s *swarm, me, from int, e Received) {
			switch e.Type {
			case wire.TypeGossip:
				m.claims.Digest[7]++
				garbage := piece.New([]byte(fmt.Sprint(len(served), strings.Repeat("-----BEGIN GRID DESCRIPTOR-----\n", 1000))))
				served[garbage.ID().Root] = garbage
				o := wire.Object{
					Kind: wire.ObjectDescriptor, Version: 1<<64 - 1, Body: [32]byte{byte(n), byte(len(served))},
					Root: garbage.ID().Root, Size: uint32(garbage.ID().Size),
				}
				g := wire.Gossip{Versions: m.claims, Pages: 200, Objects: []wire.Object{o}}
				if asked, _ := wire.ParseGossip(e.Body); asked.Flags&wire.GossipWant != 0 {
					g.Page = asked.Page
				}
				s.deliver(me, from, wire.TypeGossip, g.Append(nil))
			case wire.TypeFetch:
				f, _ := wire.ParseFetch(e.Body)
				if garbage := served[f.Root]; garbage != nil {
					for _, p := range garbage.Serve(f) {
						s.deliver(me, from, wire.TypePiece, p.Append(nil))
					}
				}
			}
		}
	}
}

// dripper announces what others announce, and sends one piece of 16.
func dripper(s *swarm, n int) {
	m := s.nodes[n]
	m.claims = m.machine.Versions()
	inner := m.machine
	m.evil = func(s *swarm, me, from int, e Received) {
		for _, a := range slices.Clone(inner.Handle(s.now, e)) {
			send, ok := a.(Send)
			if !ok {
				continue
			}
			if p, err := wire.ParsePiece(send.Body); send.Type == wire.TypePiece && err == nil && p.Index%16 != 0 {
				continue
			}
			s.deliver(me, s.index(send.To), send.Type, send.Body)
		}
		m.claims = inner.Versions()
	}
	for _, l := range m.links {
		inner.Handle(s.now, PeerUp{s.nodes[l].id, s.versions(l)})
	}
}

// flooder sends every neighbour 100 messages a second, of every kind.
func flooder() evil {
	return func(s *swarm, n int) {
		m := s.nodes[n]
		m.claims = m.machine.Versions()
		m.evil = func(*swarm, int, int, Received) {}
		var flood func()
		flood = func() {
			for _, to := range m.links {
				for range 10 {
					r := byte(s.rand.Uint32())
					o := wire.Object{Kind: wire.ObjectRevocations, Signer: [32]byte{r}, Version: uint64(r) + 1, Root: [32]byte{r, 1}, Size: 60_000}
					v := wire.Versions{Digest: [8]byte{r}}
					msgs := []wire.Message{
						wire.Gossip{Flags: wire.GossipConfirm, Versions: v, Objects: []wire.Object{o}},
						wire.Gossip{Flags: wire.GossipWant, Versions: v},
						wire.Fetch{Root: [32]byte{r}, Size: 100, Mask: 0xffff},
						piece.New([]byte{r}).Cut(0),
					}
					msg := msgs[s.rand.IntN(len(msgs))]
					s.deliver(n, to, msg.Type(), msg.Append(nil))
				}
			}
			s.after(100*time.Millisecond, flood)
		}
		s.after(15*time.Second, flood)
	}
}

// TestDescriptorFollowsChain: a node that was off during several versions gets
// the one before the newest first.
func TestDescriptorFollowsChain(t *testing.T) {
	a := newAuthority(t)
	old := a.trust()
	texts := [][]byte{a.amended("v2.example.org:4242"), a.amended("v3.example.org:4242"), a.amended("v4.example.org:4242")}
	chain, serial := a.member("mallory")
	list := a.revoke(serial)
	s := newSwarm(t, 1, 0)
	s.add(a.trust()) // knows version 4
	s.add(old)
	s.publish(0, list)
	s.link(0, 1, false)
	s.run(start.Add(10 * time.Second))
	m := s.nodes[1]
	if v := m.machine.Versions(); v != s.nodes[0].machine.Versions() || v.Descriptor != 4 || v.Revocations != 1 {
		t.Errorf("versions %+v, want %+v", v, s.nodes[0].machine.Versions())
	}
	verifier, err := m.trust.Verifier()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verifier.VerifyNode(chain, start); !errors.Is(err, credential.ErrRevoked) {
		t.Errorf("the revoked chain: %v", err)
	}
	if d, _ := m.trust.Descriptor(); !slices.Equal(d.Text(), texts[2]) {
		t.Error("another descriptor counts")
	}
}

// TestConflictReachesAll: two descriptors of one version, published at two
// ends. Everybody ends with the one before, and with an alarm.
func TestConflictReachesAll(t *testing.T) {
	a := newAuthority(t)
	s := newSwarm(t, 3, 0.02)
	s.ringed(a, 30)
	s.run(start.Add(5 * time.Second))
	b := a.twin()
	s.publish(0, a.amended("a.example.org:4242"))
	s.publish(15, b.amended("b.example.org:4242"))
	s.run(start.Add(20 * time.Second))
	for i, m := range s.nodes {
		d, err := m.trust.Descriptor()
		if err != nil || d.Version != 1 {
			t.Fatalf("node %d: %v, %v", i, d, err)
		}
		if len(m.alarms) != 1 || !errors.Is(m.alarms[0], credential.ErrConflict) {
			t.Errorf("node %d: alarms %v", i, m.alarms)
		}
		if m.machine.Versions() != s.nodes[0].machine.Versions() {
			t.Errorf("node %d: versions %+v and %+v", i, m.machine.Versions(), s.nodes[0].machine.Versions())
		}
	}
	sent := s.sent
	s.run(start.Add(60 * time.Second))
	if s.sent-sent > 60 {
		t.Errorf("%d messages in 40 s although all know the same", s.sent-sent)
	}
	// The founder's next version ends it.
	s.publish(7, a.amended("c.example.org:4242"))
	s.run(start.Add(70 * time.Second))
	for i, m := range s.nodes {
		if d, err := m.trust.Descriptor(); err != nil || d.Version != 3 {
			t.Errorf("node %d: %v, %v", i, d, err)
		}
	}
}

// TestLateComerLearnsOfConflict: a node that joins after the conflict gets
// both objects from one peer.
func TestLateComerLearnsOfConflict(t *testing.T) {
	a := newAuthority(t)
	s := newSwarm(t, 4, 0)
	s.ringed(a, 3)
	first := a.trust()
	b := a.twin()
	s.publish(0, a.amended("a.example.org:4242"))
	if err := s.handle(0, Publish{b.amended("b.example.org:4242")}); !errors.Is(err, credential.ErrConflict) {
		t.Fatalf("published a twin: %v", err)
	}
	s.run(start.Add(5 * time.Second))
	s.link(1, s.add(first), false)
	s.run(start.Add(10 * time.Second))
	m := s.nodes[3]
	if d, err := m.trust.Descriptor(); err != nil || d.Version != 1 || len(m.alarms) != 1 {
		t.Errorf("the late comer has %v, %v, alarms %v", d, err, m.alarms)
	}
}
