package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gridappliance/credential"
	"gridappliance/internal/need"
	"gridappliance/internal/sysrun"
)

// TestGridDrills: what happens to a grid's machines and jobs when something breaks
// for a while, and when a person is revoked.
func TestGridDrills(t *testing.T) {
	need.Long(t)
	g := newGridLab(t, 1)
	north, west, south := g.site(10*time.Millisecond), g.site(20*time.Millisecond), g.site(40*time.Millisecond)
	master := north.master(0)
	alice := north.person(credential.RoleClient, "physics", "alice")
	worker := west.person(credential.RoleWorker, "physics", "carol")
	bob := south.person(credential.RoleClient, "chemistry", "bob", "[condor]", "owner-preempts = false")
	g.waitReady()
	t.Run("a site is cut off for two minutes", func(t *testing.T) { testCut(t, master, alice, worker, west) })
	t.Run("a client's disk is full", func(t *testing.T) { testDiskFull(t, master, alice, worker) })
	t.Run("a worker stops for a while", func(t *testing.T) { testStopped(t, master, alice, worker) })
	t.Run("overlayd stops beyond its lease", func(t *testing.T) { testLeaseOver(t, master, alice, worker) })
	t.Run("a worker is put back to a snapshot", func(t *testing.T) { testSnapshot(t, g, master, alice, worker) })
	t.Run("a person is revoked", func(t *testing.T) { testRevoked(t, g, master, worker, bob) })
}

// idle waits until no job runs on a machine, and returns how long that took.
func (m *gridMachine) idle(t *testing.T, pool *gridMachine, patience time.Duration) time.Duration {
	t.Helper()
	start := time.Now()
	pool.until(t, patience, "\n0\n", "sh", "-c", "echo; condor_status -constraint 'State == \"Claimed\" && Machine == \""+m.host()+"\"' -autoformat Name | wc -l")
	return time.Since(start)
}

// testCut: one job is longer than the cut, one ends in it; both end well, and
// each was begun once.
func testCut(t *testing.T, master, alice, worker *gridMachine, site *gridSite) {
	alice.queue(t, "long", job("sleep 200; echo long", worker))
	alice.queue(t, "short", job("sleep 60; echo short", worker))
	alice.until(t, gridPatience, "\n2\n2\n", "sh", "-c", "echo; runuser -u griduser -- condor_q -autoformat JobStatus")
	site.router.Cut(netip.MustParseAddr("198.51.100.10"), netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.3"))
	time.Sleep(2 * time.Minute)
	site.router.Mend()
	mended := time.Now()
	master.until(t, gridPatience, "1 of 1 answered", "/usr/lib/grid/overlayd", "ping", worker.host(), "--count", "1", "--wait", "1s")
	t.Logf("reachable %.1f s after the mend", time.Since(mended).Seconds())
	master.until(t, gridPatience, worker.host(), "condor_status", "-autoformat", "Machine")
	t.Logf("in the pool %.1f s after it", time.Since(mended).Seconds())
	for _, name := range []string{"short", "long"} {
		alice.finish(t, name)
		if out, err := alice.user("cat " + name + ".out"); err != nil || out != name+"\n" {
			t.Errorf("the %s job said %q, %v", name, out, err)
		}
		if n := alice.executions(t, name); n != 1 {
			t.Errorf("the %s job was begun %d times", name, n)
		}
	}
	t.Logf("nothing claimed %.1f s after the last job's end", worker.idle(t, master, 2*time.Minute).Seconds())
	alice.submit(t, "afterwards", job("echo afterwards", worker))
}

// testDiskFull: alice's machine has no byte left from before her job's end until
// long after it. When there is room again the job ends well, without anybody's
// doing.
func testDiskFull(t *testing.T, master, alice, worker *gridMachine) {
	alice.Run("systemctl", "stop", "condor")
	alice.Run("sh", "-c", `mkdir /srv/small && mount -t tmpfs -o size=48m tmpfs /srv/small
for dir in home/griduser var/spool/condor var/log/condor; do
	mkdir -p /srv/small/$dir && cp -a /$dir/. /srv/small/$dir && chown --reference=/$dir /srv/small/$dir && mount --bind /srv/small/$dir /$dir
done`)
	alice.Run("systemctl", "start", "condor")
	alice.until(t, gridPatience, "0 jobs", "condor_q", "-totals")
	alice.queue(t, "full", job("sleep 45; head -c 1000000 /dev/zero; echo done >full.txt", worker, "transfer_output_files = full.txt"))
	alice.until(t, gridPatience, "1 running", "condor_q", "-allusers", "-totals")
	alice.Try("sh", "-c", "cat /dev/zero >/srv/small/fill")
	time.Sleep(100 * time.Second)
	alice.Run("rm", "/srv/small/fill")
	room := time.Now()
	alice.finish(t, "full")
	t.Logf("%.0f s after there was room the job has ended, begun %d times", time.Since(room).Seconds(), alice.executions(t, "full"))
	if out, err := alice.user("cat full.txt; wc -c <full.out"); err != nil || out != "done\n1000000\n" {
		t.Errorf("the job said %q, %v", out, err)
	}
	worker.idle(t, master, 2*time.Minute)
	alice.Run("sh", "-c", "systemctl stop condor; umount /home/griduser /var/spool/condor /var/log/condor /srv/small; systemctl start condor")
	alice.until(t, gridPatience, "0 jobs", "condor_q", "-totals")
}

// testStopped: everything on the worker stands still until the pool has forgotten
// it, as in a machine whose host swaps. Its job goes on then.
func testStopped(t *testing.T, master, alice, worker *gridMachine) {
	alice.queue(t, "still", job("sleep 30; echo still", worker))
	alice.until(t, gridPatience, "1 running", "condor_q", "-allusers", "-totals")
	worker.Try("sh", "-c", "kill -STOP -1")
	master.until(t, 3*time.Minute, "\ngone\n", "sh", "-c", "echo; condor_status -autoformat Machine | grep -q "+worker.host()+" || echo gone")
	worker.Try("sh", "-c", "kill -CONT -1")
	goes := time.Now()
	master.until(t, gridPatience, worker.host(), "condor_status", "-autoformat", "Machine")
	t.Logf("in the pool %.1f s after it goes on", time.Since(goes).Seconds())
	alice.finish(t, "still")
	t.Logf("the job has ended %.1f s after it, begun %d times", time.Since(goes).Seconds(), alice.executions(t, "still"))
	if out, err := alice.user("cat still.out"); err != nil || out != "still\n" {
		t.Errorf("the job said %q, %v", out, err)
	}
	worker.idle(t, master, 2*time.Minute)
}

// testLeaseOver: the worker's overlayd stands still until the lease of its address
// is over, and until the pool has forgotten the machine. Its job does not notice.
func testLeaseOver(t *testing.T, master, alice, worker *gridMachine) {
	alice.queue(t, "lease", job("sleep 150; echo lease", worker))
	alice.until(t, gridPatience, "1 running", "condor_q", "-allusers", "-totals")
	stopped := time.Now()
	worker.Run("systemctl", "kill", "--signal=STOP", "overlayd")
	master.until(t, 3*time.Minute, "\ngone\n", "sh", "-c", "echo; condor_status -autoformat Machine | grep -q "+worker.host()+" || echo gone")
	time.Sleep(time.Until(stopped.Add((leaseTime + 30) * time.Second)))
	worker.Run("systemctl", "kill", "--signal=CONT", "overlayd")
	goes := time.Now()
	worker.until(t, gridPatience, worker.address(), "/usr/lib/grid/overlayd", "status")
	master.until(t, gridPatience, "1 of 1 answered", "/usr/lib/grid/overlayd", "ping", worker.host(), "--count", "1", "--wait", "1s")
	t.Logf("stopped for %.0f s; reached %.1f s after it goes on", goes.Sub(stopped).Seconds(), time.Since(goes).Seconds())
	master.until(t, gridPatience, worker.host(), "condor_status", "-autoformat", "Machine")
	t.Logf("in the pool %.1f s after it", time.Since(goes).Seconds())
	alice.finish(t, "lease")
	if out, err := alice.user("cat lease.out"); err != nil || out != "lease\n" {
		t.Errorf("the job said %q, %v", out, err)
	}
	if n := alice.executions(t, "lease"); n != 1 {
		t.Errorf("the job was begun %d times", n)
	}
	worker.idle(t, master, 2*time.Minute)
}

// testSnapshot: the worker's disk is put back to what it was before a job began
// that runs, and the machine is started from it. The job is begun again there,
// nothing else waits for it, and the machine is a member again.
func testSnapshot(t *testing.T, g *gridLab, master, alice, worker *gridMachine) {
	snapshot := filepath.Join(t.TempDir(), "snapshot.tar")
	disk := worker.Run("sh", "-c", "sync; tar --directory=/ --create --warning=no-file-changed etc var/lib/overlayd var/lib/grid var/lib/condor var/spool/condor var/log/condor || test $? = 1") // 1: a log grew
	if err := os.WriteFile(snapshot, []byte(disk), 0o600); err != nil {
		t.Fatal(err)
	}
	alice.queue(t, "snapshot", job("sleep 60; echo snapshot", worker))
	alice.until(t, gridPatience, "1 running", "condor_q", "-allusers", "-totals")
	worker.Kill()
	worker.boot(func(root string) {
		if out, err := sysrun.Output(t.Context(), "tar", "--directory="+root, "--extract", "--file="+snapshot); err != nil {
			t.Errorf("restore: %v: %s", err, out)
		}
	})
	g.waitReady()
	t.Logf("%s, READY %.1f s after its start", worker.line, worker.ready.Seconds())
	master.until(t, gridPatience, worker.host(), "condor_status", "-autoformat", "Machine")
	alice.finish(t, "snapshot")
	t.Logf("the job has ended %.1f s after the start, begun %d times", time.Since(worker.start).Seconds(), alice.executions(t, "snapshot"))
	if out, err := alice.user("cat snapshot.out"); err != nil || out != "snapshot\n" {
		t.Errorf("the job said %q, %v", out, err)
	}
	worker.idle(t, master, 2*time.Minute)
}

// testRevoked: of bob's jobs one runs and one waits when he is revoked. The one
// that runs loses its slot, his machine leaves the pool, and neither job is begun
// again.
func testRevoked(t *testing.T, g *gridLab, master, worker, bob *gridMachine) {
	cpus, _, _ := strings.Cut(worker.Run("condor_status", worker.host(), "-autoformat", "TotalCpus"), ".")
	bob.queue(t, "runs", job("sleep 3000", worker, "request_cpus = "+strings.TrimSpace(cpus)))
	master.until(t, gridPatience, "griduser@chemistry", "condor_status", worker.host(), "-autoformat", "RemoteUser")
	bob.queue(t, "waits", job("echo waits", worker, "request_cpus = "+strings.TrimSpace(cpus)))
	i := slices.IndexFunc(g.grid.Ledger, func(e credential.Issued) bool { return e.User == "bob" })
	if _, err := g.grid.Revoke([]string{g.grid.Ledger[i].Serial}, "a drill", nil, time.Now()); err != nil {
		t.Fatal(err)
	}
	master.Run("sh", "-c", "cat >/root/revoked.pem <<'END'\n"+string(g.grid.Revocations.Text())+"END")
	revoked := time.Now()
	master.Run("/usr/lib/grid/overlayd", "publish", "/root/revoked.pem")
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := worker.Try("sh", "-c", "/usr/lib/grid/overlayd whois "+bob.address()+"; /usr/lib/grid/overlayd status --json | grep -A3 barred; condor_status -direct $(hostname -f) -autoformat:r Name State Activity ClientMachine GridBarred GridPath; journalctl --no-pager -u grid-guard | tail -n 5; tail -n 20 /var/log/condor/StartLog")
			t.Logf("the worker:\n%s", out)
		}
	})
	reached := func() bool {
		out, err := master.Try("/usr/lib/grid/overlayd", "ping", bob.address(), "--count", "1", "--wait", "1s")
		return err == nil && strings.Contains(out, "1 of 1")
	}
	for reached() {
		if time.Since(revoked) > gridPatience {
			t.Fatal("the master still reaches the revoked person's machine")
		}
	}
	t.Logf("not reached any more %.1f s after the list was published", time.Since(revoked).Seconds())
	worker.idle(t, master, time.Minute)
	t.Logf("his job's slot is free after %.1f s", time.Since(revoked).Seconds())
	master.until(t, 2*time.Minute, "\ngone\n", "sh", "-c", "echo; condor_status -any -autoformat Machine | grep -q "+bob.host()+" || echo gone")
	t.Logf("out of the pool after %.1f s", time.Since(revoked).Seconds())
	for _, name := range []string{"runs", "waits"} {
		if n := bob.executions(t, name); n > 1 || name == "waits" && n > 0 {
			t.Errorf("the job that %s was begun %d times", name, n)
		}
	}
	out, _ := bob.Try("/usr/lib/grid/grid", "status")
	t.Logf("his machine says:\n%s", out)
}
