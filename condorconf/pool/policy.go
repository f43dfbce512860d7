package pool

import (
	"strings"

	"gridappliance/condorconf/knob"
	"gridappliance/floppy"
)

// jobAccounts matches the accounts of jobs. Nobody logs in to them, so that
// HTCondor may kill all their processes when a job ends.
const jobAccounts = "slot[0-9]+"

// maxSlots is more than any machine has.
const maxSlots = 1024

// What a job is worth to a machine of its group, and how much more to the
// machine of its owner.
const (
	groupRank = 100
	ownerRank = 100
)

// Whose a job is, in expressions of a machine.
const (
	group = `split(TARGET.User ?: "@-", "@")[1] =?= MY.GridGroup`
	user  = `TARGET.GridUser =?= MY.GridUser`
	own   = "(" + group + " && " + user + ")"
	// from a machine that the virtual network refuses
	barred = `stringListIMember(MY.ClientMachine ?: "", MY.GridBarred ?: "")`
	// that the guard keeps from starting
	refused = `stringListIMember(MY.Name ?: "", MY.GridRefused ?: "")`
)

// policy writes whose jobs come first and what a job gets.
//
// User is set by the schedd to account@UID_DOMAIN, and its collector accepts
// only the domain of the schedd's certificate; GridUser is set by the schedd's
// own transform. So stock tools forge neither. Who is root on a client can
// write any GridUser within the group, and a modified schedd any User; Claim is
// what the guard knows of it before the job starts.
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
		d.Set("RANK", knob.Expr("ifThenElse("+group+", %v + %v * ("+user+"), 0)", knob.Int(groupRank), knob.Int(ownerRank)))
	} else {
		d.Comment("No job comes before another, none is preempted.")
		d.Set("RANK", knob.Int(0))
	}
	leaves := knob.Bool(false)
	if m.Preempt && m.Role == floppy.RoleClient {
		leaves = m.activity(d)
	} else {
		d.Set("START", knob.Bool(true))
		d.Set("SUSPEND", knob.Bool(false))
	}
	if m.guarded() {
		d.Comment(`Slots of machines that are refused are taken back. HTCondor would keep them for the
job's lease, 40 minutes, as it does for a machine that is cut off and comes back.`)
		leaves = knob.Expr(barred+" || "+refused+" || %v", leaves)
	}
	d.Set("PREEMPT", leaves)
	d.Set("KILL", knob.Bool(false))
	d.Comment("Seconds that a job may go on: none when its machine's owner comes, a week when the machine is drained (grid drain).")
	d.Set("MAXJOBRETIREMENTTIME", knob.Expr("ifThenElse(MY.Draining ?: false, 604800, 0)"))
	d.Set("MachineMaxVacateTime", knob.Int(10))

	d.Comment("Leave the machine some memory, in MiB, for itself.")
	d.Set("RESERVED_MEMORY", knob.Int(256))
	m.slots(d)
	m.software(d)
	if m.guarded() {
		guarded(d)
	}
}

// software writes which modules the image has, for jobs that need one:
// requirements = HasVerilator.
func (m Machine) software(d *knob.Doc) {
	if len(m.Modules) > 0 {
		d.Comment("The image's modules, as jobs ask for them.")
	}
	for _, module := range m.Modules {
		name := camel(module)
		d.SetFor("Has%s", name, knob.Bool(true))
		d.Set("STARTD_ATTRS", knob.Expr("$(STARTD_ATTRS) Has%v", knob.Word(name)))
	}
}

// camel returns the name of a module as it stands in an attribute: OpenMpi for
// open-mpi.
func camel(name string) string {
	var b strings.Builder
	for word := range strings.SplitSeq(name, "-") {
		if word != "" {
			b.WriteString(strings.ToUpper(word[:1]) + word[1:])
		}
	}
	return b.String()
}

// guarded says whether the machine runs jobs of other machines, and so asks the
// guard whose they are.
func (m Machine) guarded() bool { return m.executes() && m.Credential }

// guarded writes what HTCondor runs to ask the guard.
func guarded(d *knob.Doc) {
	d.Comment(`The guard says whether a job is whose it says it is, by the address that its slot
was claimed from: one that is not does not start, and is held. A hook of HTCondor's
own (<Keyword>_HOOK_PREPARE_JOB) would switch its cgroups off.`)
	d.Set("USER_JOB_WRAPPER", knob.Word("/"+WrapperFile))
	d.Set("WANT_HOLD", knob.Expr(refused))
	d.Set("WANT_HOLD_REASON", knob.Expr(`ifThenElse(`+refused+`, "The job is not whose it says it is, by the certificate of the machine that it came from.", undefined)`))
	d.Comment("GridPath and GridRTTms, how far the master is; GridBarred, whose machines are refused; GridRefused, which slots' jobs.")
	d.Set("STARTD_CRON_JOBLIST", knob.Expr("$(STARTD_CRON_JOBLIST) GRID"))
	d.Set("STARTD_CRON_GRID_EXECUTABLE", knob.Word(program))
	d.Set("STARTD_CRON_GRID_ARGS", knob.Expr("view"))
	d.Set("STARTD_CRON_GRID_PERIOD", knob.Expr("5s")) // after which it is started again
	d.Set("STARTD_CRON_GRID_MODE", knob.Expr("WaitForExit"))
}

// activity writes that other people's jobs keep away from a client while
// somebody works there: types at a console or over ssh, or has programs run
// that are no jobs. It is the desktop policy of the HTCondor manual ("Policy
// Configuration"), except that the owner's own jobs go on. utmp, which Debian
// keeps no longer, is not asked who is there, but every terminal (decision 0086).
// It returns when a job must leave.
func (m Machine) activity(d *knob.Doc) knob.Value {
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
	d.Set("SUSPEND", knob.Expr("MY.CurrentRank < %v && "+busy, knob.Int(groupRank+ownerRank)))
	d.Set("CONTINUE", knob.Expr(quiet))
	return knob.Expr(`MY.Activity =?= "Suspended" && time() - MY.EnteredCurrentActivity > 600`)
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
