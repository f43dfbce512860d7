package pool

import (
	"gridappliance/condorconf/knob"
	"gridappliance/floppy"
)

// jobAccounts matches the accounts of jobs. Nobody logs in to them, so that
// HTCondor may kill all their processes when a job ends.
const jobAccounts = "slot[0-9]+"

// maxSlots is more than any machine has.
const maxSlots = 1024

// Whose a job is, in expressions of a machine.
const (
	group = `split(TARGET.User ?: "@-", "@")[1] =?= MY.GridGroup`
	user  = `TARGET.GridUser =?= MY.GridUser`
	own   = "(" + group + " && " + user + ")"
)

// policy writes whose jobs come first and what a job gets.
//
// User is set by the schedd to account@UID_DOMAIN, and its collector accepts
// only the domain of the schedd's certificate; GridUser is set by the schedd's
// own transform. So stock tools forge neither. Who is root on a client can
// write any GridUser within the group, and a modified schedd any User.
func (m Machine) policy(d *knob.Doc) {
	if !m.executes() {
		return
	}
	if m.Credential {
		d.Comment("Whose machine this is.")
		d.Set("GridGroup", knob.String(m.Group))
		d.Set("GridUser", knob.String(m.User))
		d.Set("STARTD_ATTRS", knob.Expr("$(STARTD_ATTRS) GridGroup GridUser"))
	}
	if m.Preempt {
		d.Comment("The owner's own jobs come first, then the group's; they preempt all others.")
		d.Set("RANK", knob.Expr("ifThenElse("+group+", 100 + 100 * ("+user+"), 0)"))
	} else {
		d.Comment("No job comes before another, none is preempted.")
		d.Set("RANK", knob.Int(0))
	}
	if m.Preempt && m.Role == floppy.RoleClient {
		m.activity(d)
	} else {
		d.Set("START", knob.Bool(true))
		d.Set("SUSPEND", knob.Bool(false))
		d.Set("PREEMPT", knob.Bool(false))
	}
	d.Set("KILL", knob.Bool(false))
	d.Comment("Seconds that a job may go on: none when its machine's owner comes, a week when the machine is drained (grid drain).")
	d.Set("MAXJOBRETIREMENTTIME", knob.Expr("ifThenElse(MY.Draining ?: false, 604800, 0)"))
	d.Set("MachineMaxVacateTime", knob.Int(10))

	d.Comment("Leave the machine some memory, in MiB, for itself.")
	d.Set("RESERVED_MEMORY", knob.Int(256))
	m.slots(d)
}

// activity writes that other people's jobs keep away from a client while
// somebody works there: types at a console or over ssh, or has programs run
// that are no jobs. It is the desktop policy of the HTCondor manual ("Policy
// Configuration"), except that the owner's own jobs go on. utmp, which Debian
// keeps no longer, is not asked who is there, but every terminal (decision 0086).
func (m Machine) activity(d *knob.Doc) {
	d.Comment(`Other people's jobs begin here when nobody has typed for five minutes and the load
without jobs is low, are suspended when somebody comes, and leave after ten
minutes of that. The owner's own run at any time.`)
	d.Set("STARTD_HAS_BAD_UTMP", knob.Bool(true))
	d.Set("CONSOLE_DEVICES", knob.Expr("tty1, ttyS0, hvc0"))
	d.Set("SLOTS_CONNECTED_TO_CONSOLE", knob.Int(maxSlots))
	d.Set("SLOTS_CONNECTED_TO_KEYBOARD", knob.Int(maxSlots))
	const quiet = `(MY.KeyboardIdle > 300 && MY.TotalLoadAvg - MY.TotalCondorLoadAvg < 0.5)`
	const busy = `(MY.KeyboardIdle < 60 || MY.TotalLoadAvg - MY.TotalCondorLoadAvg > 1.0)`
	d.Set("START", knob.Expr(own+" || "+quiet))
	d.Set("WANT_SUSPEND", knob.Bool(true))
	d.Set("SUSPEND", knob.Expr("MY.CurrentRank < 200 && "+busy))
	d.Set("CONTINUE", knob.Expr(quiet))
	d.Set("PREEMPT", knob.Expr(`MY.Activity =?= "Suspended" && time() - MY.EnteredCurrentActivity > 600`))
}

// slots writes how the machine is divided, and one account a slot.
func (m Machine) slots(d *knob.Doc) {
	d.Comment("Jobs run in accounts of their own, never as someone who logs in.")
	d.Set("STARTER_ALLOW_RUNAS_OWNER", knob.Bool(false))
	d.Set("DEDICATED_EXECUTE_ACCOUNT_REGEXP", knob.Expr(jobAccounts))
	if m.Limited {
		d.Set("NUM_CPUS", knob.Int(m.CPUs))
	}
	if m.Slots > 0 {
		d.Set("NUM_SLOTS_TYPE_1", knob.Int(m.Slots))
		d.Set("SLOT_TYPE_1", knob.Expr("1/%v", knob.Int(m.Slots)))
		d.Set("SLOT_TYPE_1_PARTITIONABLE", knob.Bool(false))
		for i := range m.Slots {
			d.Set("SLOT%d_USER", account(i+1), i+1)
		}
		return
	}
	d.Set("NUM_SLOTS_TYPE_1", knob.Int(1))
	d.Set("SLOT_TYPE_1", knob.Expr("100%"))
	d.Set("SLOT_TYPE_1_PARTITIONABLE", knob.Bool(true))
	for i := range m.Accounts {
		d.Set("SLOT1_%d_USER", account(i+1), i+1)
	}
}

func account(n int) knob.Value { return knob.Expr("slot%v", knob.Int(n)) }
