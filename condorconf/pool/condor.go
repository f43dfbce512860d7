package pool

import (
	"gridappliance/condorconf/knob"
	"gridappliance/floppy"
)

// port is the one TCP port of HTCondor: every daemon is reached through it.
const port = 9618

// ownState is where firstboot makes folders for HTCondor on an own machine.
const ownState = "/var/lib/grid/condor"

// network writes where the daemons listen.
func (m Machine) network(d *knob.Doc) {
	d.Comment(`Written by condorconf; changes here are lost. Put your own into 90-*.conf.
Listen on the virtual network only: nothing outside.`)
	d.Set("NETWORK_INTERFACE", knob.Word(m.Interface))
	d.Set("NETWORK_HOSTNAME", knob.Word(m.Name))
	if m.Credential {
		d.Set("DEFAULT_DOMAIN_NAME", knob.Word("ipop"))
	}
	d.Set("BIND_ALL_INTERFACES", knob.Bool(false))
	d.Set("ENABLE_IPV4", knob.Bool(true))
	d.Set("ENABLE_IPV6", knob.Bool(false))
	d.Set("USE_SHARED_PORT", knob.Bool(true))
	d.Set("SHARED_PORT_PORT", knob.Int(port))
	d.Set("UPDATE_COLLECTOR_WITH_TCP", knob.Bool(true))
	d.Comment("Users are account@group.")
	d.Set("UID_DOMAIN", knob.Word(m.Group))
	if m.Credential {
		d.Set("TRUST_DOMAIN", knob.Word(m.Grid))
	}
	d.Comment(`Files travel with the job even to this machine itself, because a job's
account cannot write where its submitter can.`)
	d.Set("FILESYSTEM_DOMAIN", knob.Expr("$(NETWORK_HOSTNAME)"))
	d.Set("STARTD.FILESYSTEM_DOMAIN", knob.Expr("jobs.$(NETWORK_HOSTNAME)"))
	d.Set("STARTER.FILESYSTEM_DOMAIN", knob.Expr("jobs.$(NETWORK_HOSTNAME)"))
}

// masters writes where the pool is, and which others there are. The daemons
// take it in while jobs run.
func (m Machine) masters(d *knob.Doc) {
	d.Comment("The pool's central managers, named exactly as in their certificates.")
	d.Set("CONDOR_HOST", knob.Words(m.Masters))
	if len(m.Flock) > 0 {
		d.Comment("Other pools take jobs that find no slot in this one.")
		d.Set("FLOCK_TO", knob.Words(m.Flock))
		d.Set("FLOCK_INCREMENT", knob.Int(len(m.Flock)))
	}
}

// security writes who is who and who may do what. Reading is open to all who
// reach the port, because an ordinary user cannot read the machine's key.
func (m Machine) security(d *knob.Doc) {
	required, optional := knob.Expr("REQUIRED"), knob.Expr("OPTIONAL")
	d.Comment("Everything but reading is authenticated, encrypted and protected.")
	d.Set("SEC_DEFAULT_AUTHENTICATION", required)
	d.Set("SEC_DEFAULT_ENCRYPTION", required)
	d.Set("SEC_DEFAULT_INTEGRITY", required)
	d.Set("SEC_READ_AUTHENTICATION", optional)
	d.Set("SEC_READ_ENCRYPTION", optional)
	d.Set("SEC_READ_INTEGRITY", optional)
	d.Set("SEC_CLIENT_AUTHENTICATION", optional)
	d.Set("SEC_CLIENT_ENCRYPTION", optional)
	d.Set("SEC_CLIENT_INTEGRITY", optional)

	methods := knob.Expr("FS")
	if m.Credential {
		d.Comment("Between machines by certificate (SSL), within one by the filesystem (FS).")
		methods = knob.Expr("FS, SSL")
	} else {
		d.Comment("Within one machine, by the filesystem.")
	}
	d.Set("SEC_DEFAULT_AUTHENTICATION_METHODS", methods)
	d.Set("SEC_CLIENT_AUTHENTICATION_METHODS", methods)
	if m.Credential {
		m.certificates(d)
	}

	d.Comment(`Submit on this machine only, and never from a job's account: a job of another
group could otherwise submit in this group's name.`)
	d.Set("ALLOW_READ", knob.Expr("*"))
	d.Set("ALLOW_WRITE", knob.Expr("*@$(UID_DOMAIN)/$(IP_ADDRESS)"))
	d.Set("DENY_WRITE", knob.Expr("slot*@*, nobody@*"))
	local := knob.Expr("root@$(UID_DOMAIN)/$(IP_ADDRESS), condor@$(UID_DOMAIN)/$(IP_ADDRESS)")
	masters := knob.Expr("master-*@%v", knob.Word(MasterGroup))
	d.Set("ALLOW_ADMINISTRATOR", local)
	d.Set("ALLOW_CONFIG", knob.Value{})
	daemons, negotiators := local, local
	if m.Redundant {
		daemons = knob.Expr("%v, %v", local, masters)
	}
	if m.Credential {
		negotiators = masters
	}
	d.Set("ALLOW_DAEMON", daemons)
	d.Set("ALLOW_NEGOTIATOR", negotiators)
}

// certificates writes how a machine proves itself to another.
func (m Machine) certificates(d *knob.Doc) {
	ca, cert, key := knob.Word("/"+CAFile), knob.Word("/"+CertFile), knob.Word("/"+KeyFile)
	d.Set("AUTH_SSL_SERVER_CAFILE", ca)
	d.Set("AUTH_SSL_SERVER_CERTFILE", cert)
	d.Set("AUTH_SSL_SERVER_KEYFILE", key)
	d.Set("AUTH_SSL_CLIENT_CAFILE", ca)
	d.Set("AUTH_SSL_CLIENT_CERTFILE", cert)
	d.Set("AUTH_SSL_CLIENT_KEYFILE", key)
	d.Comment(`The grid's root for HTCondor is the only one: no public authority, no
certificate made on the spot, no trust on first use, no anonymous peer.`)
	d.Set("AUTH_SSL_SERVER_USE_DEFAULT_CAS", knob.Bool(false))
	d.Set("AUTH_SSL_CLIENT_USE_DEFAULT_CAS", knob.Bool(false))
	d.Set("AUTH_SSL_REQUIRE_CLIENT_CERTIFICATE", knob.Bool(true))
	d.Set("COLLECTOR_BOOTSTRAP_SSL_CERTIFICATE", knob.Bool(false))
	d.Set("BOOTSTRAP_SSL_SERVER_TRUST", knob.Bool(false))
	if m.Role == floppy.RoleMaster {
		d.Comment(`A negotiator calls job queues, whose certificates carry no host name. Workers
and clients keep the check, so that nobody but a master can pose as one.`)
		d.Set("SSL_SKIP_HOST_CHECK", knob.Bool(true))
	}
	d.Comment("Subject to <role>-<host>@<group>; without the second knob /.../ is no expression.")
	d.Set("CERTIFICATE_MAPFILE", knob.Word("/"+MapFile))
	d.Set("CERTIFICATE_MAPFILE_ASSUME_HASH_KEYS", knob.Bool(true))
}

// role writes the daemons, and what each of them needs besides.
func (m Machine) role(d *knob.Doc) {
	d.Comment("The role's daemons.")
	d.Set("DAEMON_LIST", knob.Words(m.Daemons))
	if m.Own {
		d.Comment("Beside what HTCondor kept here for a pool of before; it goes when the machine leaves the grid.")
		d.Set("SPOOL", knob.Word(ownState+"/spool"))
		d.Set("EXECUTE", knob.Word(ownState+"/execute"))
		d.Set("SEC_PASSWORD_DIRECTORY", knob.Word(ownState+"/passwords.d"))
		d.Set("SEC_TOKEN_SYSTEM_DIRECTORY", knob.Word(ownState+"/tokens.d"))
		d.Set("SEC_SYSTEM_KNOWN_HOSTS", knob.Word(ownState+"/known_hosts"))
		if !m.Credential { // with one, security says so
			d.Set("COLLECTOR_BOOTSTRAP_SSL_CERTIFICATE", knob.Bool(false))
		}
	}
	switch m.Role {
	case floppy.RoleMaster:
		m.collector(d)
	case floppy.RoleClient:
		m.queue(d)
	case floppy.RoleStandalone:
		d.Set("COLLECTOR_NAME", knob.Expr("standalone grid appliance"))
	}
	if m.Redundant {
		m.redundancy(d)
	}
}

// collector writes what a central manager accepts from whom.
func (m Machine) collector(d *knob.Doc) {
	d.Set("COLLECTOR_NAME", knob.Word(m.Grid))
	d.Comment("Workers offer slots, clients slots and jobs, masters negotiate.")
	d.Set("ALLOW_ADVERTISE_MASTER", knob.Expr("master-*@%v, client-*@*, worker-*@*, condor@$(UID_DOMAIN), root@$(UID_DOMAIN)", knob.Word(MasterGroup)))
	d.Set("ALLOW_ADVERTISE_STARTD", knob.Expr("worker-*@*, client-*@*"))
	d.Set("ALLOW_ADVERTISE_SCHEDD", knob.Expr("client-*@*"))
	d.Comment(`Submitters and machines may only use names of their certificate's own group,
and a machine only its own host name.`)
	d.Set("COLLECTOR_REQUIREMENTS", knob.Expr(
		`(MyType =!= "Submitter" || split(Name ?: "", "@")[1] =?= split(AuthenticatedIdentity ?: "@", "@")[1]) && `+
			`(MyType =!= "Machine" || (GridGroup =?= split(AuthenticatedIdentity ?: "@", "@")[1] && `+
			`Machine =?= split(AuthenticatedIdentity ?: "", "-@")[1]))`))
	d.Comment("A machine's RANK may take a slot back; mere user priority never does.")
	d.Set("ALLOW_PSLOT_PREEMPTION", knob.Bool(true))
	d.Set("NEGOTIATOR_CONSIDER_PREEMPTION", knob.Bool(true))
	d.Set("PREEMPTION_REQUIREMENTS", knob.Bool(false))
	d.Comment("Of the jobs that name a limit that begins with example, two run at a time (~/examples/licence.sub).")
	d.Set("CONCURRENCY_LIMIT_DEFAULT_EXAMPLE", knob.Int(2))
}

// queue writes the job queue's stable name, and the mark of the owner on every
// job.
func (m Machine) queue(d *knob.Doc) {
	d.Comment("The queue keeps its name when the address changes.")
	d.Set("SCHEDD_NAME", knob.Word(m.ScheddName))
	d.Comment("Jobs carry whose floppy they come from; neither submit files nor condor_qedit can say otherwise.")
	d.Set("JOB_TRANSFORM_NAMES", knob.Expr("$(JOB_TRANSFORM_NAMES) GridUser"))
	d.Set("JOB_TRANSFORM_GridUser", knob.Expr("SET GridUser %v", knob.String(m.User)))
	d.Set("IMMUTABLE_JOB_ATTRS", knob.Expr("$(IMMUTABLE_JOB_ATTRS) GridUser"))
}

// redundancy writes the high-availability daemons: every collector is active,
// one negotiator at a time, users' priorities are copied.
func (m Machine) redundancy(d *knob.Doc) {
	members := knob.Value{}
	for i, name := range m.Masters {
		if i == 0 {
			members = knob.Expr("%v:$(SHARED_PORT_PORT)", knob.Word(name))
			continue
		}
		members = knob.Expr("%v, %v:$(SHARED_PORT_PORT)", members, knob.Word(name))
	}
	d.Comment("Several masters: all collect, the first that lives negotiates. Equal on each of them.")
	d.Set("HAD_LIST", members)
	d.Set("REPLICATION_LIST", knob.Expr("$(HAD_LIST)"))
	d.Set("HAD_USE_SHARED_PORT", knob.Bool(true))
	d.Set("HAD_USE_REPLICATION", knob.Bool(true))
	d.Set("HAD_USE_PRIMARY", knob.Bool(true))
	d.Set("HAD_CONNECTION_TIMEOUT", knob.Int(3))
	d.Set("REPLICATION_INTERVAL", knob.Int(60))
	d.Set("MASTER_NEGOTIATOR_CONTROLLER", knob.Expr("HAD"))
	d.Set("MASTER_HAD_BACKOFF_CONSTANT", knob.Int(60))
}

// tune writes intervals in seconds: joining in seconds and leaving in two
// minutes, where HTCondor's defaults are 60, 300 and 900 s. The collector looks
// for old ads once a lifetime, so that they are gone after two at the latest.
func (m Machine) tune(d *knob.Doc) {
	d.Comment("Seconds. A machine that joins is used within ten; one that vanishes is forgotten after 60 to 120.")
	d.Set("NEGOTIATOR_INTERVAL", knob.Int(10))
	d.Set("NEGOTIATOR_MIN_INTERVAL", knob.Int(2))
	d.Set("NEGOTIATOR_CYCLE_DELAY", knob.Int(2))
	d.Set("NEGOTIATOR_UPDATE_INTERVAL", knob.Int(30))
	d.Set("UPDATE_INTERVAL", knob.Int(30))
	d.Set("MASTER_UPDATE_INTERVAL", knob.Int(30))
	d.Set("SCHEDD_INTERVAL", knob.Int(30))
	d.Set("CLASSAD_LIFETIME", knob.Int(60))
	d.Set("ALIVE_INTERVAL", knob.Int(60))
	d.Set("CCB_HEARTBEAT_INTERVAL", knob.Int(60))
	d.Set("TCP_KEEPALIVE_INTERVAL", knob.Int(60))
	d.Set("DNS_CACHE_REFRESH", knob.Int(300))
	d.Set("SEC_TCP_SESSION_TIMEOUT", knob.Int(10))
	d.Set("RunBenchmarks", knob.Bool(false))
	d.Comment(`Each start of condor_startd asks every plugin what it can. The three in Python, for
services nobody has an account with here, take a second of processor time of 1.1.`)
	d.Set("FILETRANSFER_PLUGINS", knob.Expr("$(LIBEXEC)/curl_plugin, $(LIBEXEC)/data_plugin"))
	d.Comment("The kernel's settings are the machine's, and nothing here needs others.")
	d.Set("LINUX_KERNEL_TUNING_SCRIPT", knob.Value{})
}
