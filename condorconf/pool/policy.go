package pool

import "gridappliance/condorconf/knob"

// jobAccounts matches the accounts of jobs. Nobody logs in to them, so that
// HTCondor may kill all their processes when a job ends.
const jobAccounts = "slot[0-9]+"

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
		d.Set("RANK", knob.Expr(
			`ifThenElse(split(TARGET.User ?: "@-", "@")[1] =?= MY.GridGroup, 100 + 100 * (TARGET.GridUser =?= MY.GridUser), 0)`))
	} else {
		d.Comment("No job comes before another, none is preempted.")
		d.Set("RANK", knob.Int(0))
	}
	d.Set("START", knob.Bool(true))
	d.Set("PREEMPT", knob.Bool(false))
	d.Set("SUSPEND", knob.Bool(false))
	d.Set("KILL", knob.Bool(false))
	d.Set("MAXJOBRETIREMENTTIME", knob.Int(0))
	d.Set("MachineMaxVacateTime", knob.Int(10))

	d.Comment("Leave the machine some memory, in MiB, for itself.")
	d.Set("RESERVED_MEMORY", knob.Int(256))
	m.slots(d)
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
