package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gridappliance/internal/need"
	"gridappliance/internal/netlab"
	"gridappliance/internal/sysrun"
	"gridappliance/overlayd/control"
)

// pair is two machines behind NATs that have met: each reaches the other
// directly.
func meet(t *testing.T) (w *world, a, b *station) {
	t.Helper()
	needLab(t)
	w = newWorld(t, ordinary)
	a, b = w.site(netlab.Home).machine(), w.site(netlab.Home).machine()
	a.start()
	b.start()
	a.waitRunning()
	b.waitRunning()
	a.reaches(t, b, patience)
	a.waitPath(b, control.PathDirect, 5*time.Second)
	return w, a, b
}

// TestClients has the programs people use talk over the virtual network.
func TestClients(t *testing.T) {
	_, a, b := meet(t)
	status := b.waitRunning()
	name, six := strings.TrimSuffix(status.Name, ".ipop"), status.Address6.Addr().String() // C250000009

	resolv := filepath.Join(a.dir, "resolv.conf")
	must(t, os.WriteFile(resolv, fmt.Appendf(nil, "nameserver %s\nsearch ipop\noptions timeout:2 attempts:1\n", a.Address), 0o644))
	resolving := map[string]string{"/etc/resolv.conf": resolv}
	try := func(t *testing.T, argv ...string) string {
		t.Helper()
		p := a.StartMounted(resolving, argv...)
		if code := p.Wait(patience); code != 0 {
			t.Fatalf("%s: exit %d\n%s", strings.Join(argv, " "), code, p.Output())
		}
		return p.Output()
	}

	t.Run("ping by short name", func(t *testing.T) {
		for _, n := range []string{name, strings.ToLower(name), name + ".ipop"} {
			out := try(t, "ping", "-c", "2", "-i", "0.2", "-W", "2", n)
			if !strings.Contains(out, b.Address.String()) && !strings.Contains(out, six) || !strings.Contains(out, "2 received") {
				t.Errorf("%s:\n%s", n, out)
			}
		}
	})
	t.Run("dig", func(t *testing.T) {
		need.Tool(t, "dig")
		for _, c := range []struct {
			want string
			args []string
		}{
			{b.Address.String(), []string{name + ".ipop", "A"}},
			{b.Address.String(), []string{strings.ToLower(name) + ".IPOP", "A"}},
			{six, []string{name + ".ipop", "AAAA"}},
			{strings.ToLower(name) + ".ipop.", []string{"-x", b.Address.String()}},
		} {
			out := strings.TrimSpace(try(t, append([]string{"dig", "+short", "+time=2", "+tries=1", "@" + a.Address.String()}, c.args...)...))
			if !strings.EqualFold(out, c.want) {
				t.Errorf("dig %s: %q, want %q", c.args, out, c.want)
			}
		}
	})
	t.Run("getent", func(t *testing.T) {
		if out := try(t, "getent", "ahostsv4", name); !strings.Contains(out, b.Address.String()) {
			t.Errorf("getent: %s", out)
		}
	})
	t.Run("iperf3", func(t *testing.T) {
		need.Tool(t, "iperf3")
		b.Start("iperf3", "--server", "--one-off", "--bind", b.Address.String())
		b.waitListening(t, 5201)
		var report struct {
			End struct {
				Sum struct {
					Bits float64 `json:"bits_per_second"`
				} `json:"sum_received"`
			} `json:"end"`
		}
		must(t, json.Unmarshal([]byte(try(t, "iperf3", "--client", b.Address.String(), "--time", "3", "--json")), &report))
		if report.End.Sum.Bits < 1e6 {
			t.Errorf("%.1f Mbit/s", report.End.Sum.Bits/1e6)
		}
		t.Logf("%.0f Mbit/s over the lab's lines", report.End.Sum.Bits/1e6)
	})
	t.Run("ssh", func(t *testing.T) {
		need.Tool(t, "/usr/sbin/sshd", "ssh", "ssh-keygen")
		dir := t.TempDir()
		for _, key := range []string{"host", "user"} {
			_, err := sysrun.Output(t.Context(), "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, key))
			must(t, err)
		}
		must(t, os.WriteFile(dir+"/sshd_config", fmt.Appendf(nil, "ListenAddress %s:2222\nHostKey %s/host\nAuthorizedKeysFile %s/user.pub\nStrictModes no\nUsePAM no\nPidFile none\n",
			b.Address, dir, dir), 0o600))
		must(t, os.MkdirAll("/run/sshd", 0o755))
		server := b.Start("/usr/sbin/sshd", "-D", "-e", "-f", dir+"/sshd_config")
		server.WaitFor("Server listening", patience)
		out := try(t, "ssh", "-p", "2222", "-i", dir+"/user", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes",
			"root@"+name, "echo", "hello", "from", "$SSH_CONNECTION")
		if want := fmt.Sprintf("hello from %s ", a.Address); !strings.Contains(out, want) {
			t.Errorf("%q, want %q", out, want)
		}
	})
	t.Run("avahi", func(t *testing.T) {
		need.Tool(t, "avahi-daemon")
		conf := filepath.Join(t.TempDir(), "avahi.conf")
		must(t, os.WriteFile(conf, []byte("[server]\nenable-dbus=no\nallow-interfaces=tapipop\n[publish]\n[reflector]\n[rlimits]\n"), 0o644))
		p := b.Start("avahi-daemon", "--no-drop-root", "--no-chroot", "--no-rlimits", "--no-proc-title", "--file="+conf)
		p.WaitFor("on tapipop.IPv4", patience)
		if out := p.Output(); !strings.Contains(out, "New relevant interface tapipop.IPv4") || !strings.Contains(out, b.Address.String()) {
			t.Errorf("avahi does not use the device:\n%s", out)
		}
	})
}

// waitListening waits until something takes TCP connections at the machine's
// address.
func (m *station) waitListening(t *testing.T, port uint16) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		if m.Run("ss", "--no-header", "--listening", "--numeric", "--tcp", "sport", "=", fmt.Sprint(port)) != "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: nothing listens on port %d", m.Name, port)
		}
	}
}

// TestTransferWhileTheAddressChanges moves data over TCP between machines
// behind NATs while the sender moves to another underlay address, and its NAT
// forgets what it knew.
func TestTransferWhileTheAddressChanges(t *testing.T) {
	_, a, b := meet(t)
	size := int64(48 << 20)
	if os.Getenv("LONG") != "" {
		size = 1 << 30
	}
	var ln net.Listener
	b.Do(func() {
		var err error
		ln, err = net.Listen("tcp", netip.AddrPortFrom(b.Address, 5001).String())
		must(t, err)
	})
	defer ln.Close()
	type received struct {
		n   int64
		sum [32]byte
		gap time.Duration
		err error
	}
	result := make(chan received, 1)
	progress := make(chan int64, 1<<16)
	go func() {
		defer close(progress)
		conn, err := ln.Accept()
		if err != nil {
			result <- received{err: err}
			return
		}
		defer conn.Close()
		conn.SetReadDeadline(time.Now().Add(10 * time.Minute))
		hash, r, last := sha256.New(), received{}, time.Now()
		for b := make([]byte, 1<<16); ; {
			n, err := conn.Read(b)
			hash.Write(b[:n])
			r.n += int64(n)
			if now := time.Now(); n > 0 {
				r.gap, last = max(r.gap, now.Sub(last)), now
			}
			select {
			case progress <- r.n:
			default:
			}
			if err != nil {
				if err != io.EOF {
					r.err = err
				}
				r.sum = [32]byte(hash.Sum(nil))
				result <- r
				return
			}
		}
	}()

	var conn net.Conn
	a.Do(func() {
		var err error
		conn, err = net.Dial("tcp", ln.Addr().String())
		must(t, err)
	})
	sent := make(chan [32]byte, 1)
	go func() {
		defer conn.Close()
		hash := sha256.New()
		io.Copy(io.MultiWriter(conn, hash), io.LimitReader(rand.NewChaCha8([32]byte{7}), size))
		sent <- [32]byte(hash.Sum(nil))
	}()
	start := time.Now()
	for moves := 0; moves < 2; moves++ {
		for n := range progress {
			if n > size*int64(moves+1)/3 {
				break
			}
		}
		// As DHCP on another network would do it.
		address := fmt.Sprintf("%s%d/24", a.site.net, 100+moves)
		a.Run("ip", "address", "flush", "dev", "eth0", "scope", "global")
		a.Run("ip", "address", "add", address, "dev", "eth0")
		a.Run("ip", "route", "add", "default", "via", a.site.net+"1")
		a.site.nat.Forget()
	}
	for range progress {
	}
	r := <-result
	want := <-sent
	if r.err != nil || r.n != size || r.sum != want {
		t.Fatalf("%d of %d bytes, %v; checksum right: %v\n%s", r.n, size, r.err, r.sum == want, a.why(b))
	}
	t.Logf("%d MiB in %v, longest pause %v, path %s", size>>20, time.Since(start).Round(time.Millisecond), r.gap.Round(time.Millisecond), a.path(b))
	if r.gap > 10*time.Second {
		t.Errorf("a pause of %v", r.gap)
	}
}
