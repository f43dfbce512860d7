package knob

import "slices"

// Kind is how HTCondor reads the value of a knob.
type Kind int

// The kinds of values.
const (
	Plain      Kind = iota // text, number, list, host or path
	Expression             // a ClassAd expression
)

// names is every knob this project sets; %d is an index. HTCondor's own
// parameter table is no oracle: NEGOTIATOR_CYCLE_DELAY and
// ALLOW_PSLOT_PREEMPTION work and are not in it, and condor_config_val accepts
// any misspelt name. A name comes in here only when a running pool was seen to
// obey it.
var names = map[string]Kind{
	// network
	"CONDOR_HOST":               Plain,
	"NETWORK_INTERFACE":         Plain,
	"NETWORK_HOSTNAME":          Plain,
	"DEFAULT_DOMAIN_NAME":       Plain,
	"ENABLE_IPV4":               Plain,
	"ENABLE_IPV6":               Plain,
	"BIND_ALL_INTERFACES":       Plain,
	"UID_DOMAIN":                Plain,
	"TRUST_DOMAIN":              Plain,
	"FILESYSTEM_DOMAIN":         Plain,
	"STARTD.FILESYSTEM_DOMAIN":  Plain,
	"STARTER.FILESYSTEM_DOMAIN": Plain,
	"USE_SHARED_PORT":           Plain,
	"SHARED_PORT_PORT":          Plain,
	"UPDATE_COLLECTOR_WITH_TCP": Plain,

	// security
	"SEC_DEFAULT_AUTHENTICATION":           Plain,
	"SEC_DEFAULT_ENCRYPTION":               Plain,
	"SEC_DEFAULT_INTEGRITY":                Plain,
	"SEC_READ_AUTHENTICATION":              Plain,
	"SEC_READ_ENCRYPTION":                  Plain,
	"SEC_READ_INTEGRITY":                   Plain,
	"SEC_CLIENT_AUTHENTICATION":            Plain,
	"SEC_CLIENT_ENCRYPTION":                Plain,
	"SEC_CLIENT_INTEGRITY":                 Plain,
	"SEC_DEFAULT_AUTHENTICATION_METHODS":   Plain,
	"SEC_CLIENT_AUTHENTICATION_METHODS":    Plain,
	"AUTH_SSL_SERVER_CAFILE":               Plain,
	"AUTH_SSL_SERVER_CERTFILE":             Plain,
	"AUTH_SSL_SERVER_KEYFILE":              Plain,
	"AUTH_SSL_CLIENT_CAFILE":               Plain,
	"AUTH_SSL_CLIENT_CERTFILE":             Plain,
	"AUTH_SSL_CLIENT_KEYFILE":              Plain,
	"AUTH_SSL_SERVER_USE_DEFAULT_CAS":      Plain,
	"AUTH_SSL_CLIENT_USE_DEFAULT_CAS":      Plain,
	"AUTH_SSL_REQUIRE_CLIENT_CERTIFICATE":  Plain,
	"COLLECTOR_BOOTSTRAP_SSL_CERTIFICATE":  Plain,
	"BOOTSTRAP_SSL_SERVER_TRUST":           Plain,
	"SEC_PASSWORD_DIRECTORY":               Plain,
	"SEC_TOKEN_SYSTEM_DIRECTORY":           Plain,
	"SEC_SYSTEM_KNOWN_HOSTS":               Plain,
	"CERTIFICATE_MAPFILE":                  Plain,
	"CERTIFICATE_MAPFILE_ASSUME_HASH_KEYS": Plain,
	"SSL_SKIP_HOST_CHECK":                  Plain,
	"ALLOW_READ":                           Plain,
	"ALLOW_WRITE":                          Plain,
	"DENY_WRITE":                           Plain,
	"ALLOW_ADMINISTRATOR":                  Plain,
	"ALLOW_CONFIG":                         Plain,
	"ALLOW_DAEMON":                         Plain,
	"ALLOW_NEGOTIATOR":                     Plain,
	"ALLOW_ADVERTISE_MASTER":               Plain,
	"ALLOW_ADVERTISE_STARTD":               Plain,
	"ALLOW_ADVERTISE_SCHEDD":               Plain,

	// role
	"DAEMON_LIST":                       Plain,
	"COLLECTOR_NAME":                    Plain,
	"COLLECTOR_REQUIREMENTS":            Expression,
	"ALLOW_PSLOT_PREEMPTION":            Plain,
	"NEGOTIATOR_CONSIDER_PREEMPTION":    Plain,
	"PREEMPTION_REQUIREMENTS":           Expression,
	"CONCURRENCY_LIMIT_DEFAULT_EXAMPLE": Plain,
	"SCHEDD_NAME":                       Plain,
	"FLOCK_TO":                          Plain,
	"FLOCK_INCREMENT":                   Plain,
	"GridUser":                          Expression,
	"JOB_TRANSFORM_NAMES":               Plain,
	"JOB_TRANSFORM_GridUser":            Plain,
	"IMMUTABLE_JOB_ATTRS":               Plain,

	// several masters
	"HAD_USE_SHARED_PORT":          Plain,
	"HAD_LIST":                     Plain,
	"REPLICATION_LIST":             Plain,
	"HAD_USE_REPLICATION":          Plain,
	"HAD_USE_PRIMARY":              Plain,
	"HAD_CONNECTION_TIMEOUT":       Plain,
	"REPLICATION_INTERVAL":         Plain,
	"MASTER_NEGOTIATOR_CONTROLLER": Plain,
	"MASTER_HAD_BACKOFF_CONSTANT":  Plain,

	// ownership and slots
	"GridGroup":                        Expression,
	"Has%s":                            Plain,
	"STARTD_ATTRS":                     Plain,
	"RANK":                             Expression,
	"START":                            Expression,
	"PREEMPT":                          Expression,
	"SUSPEND":                          Expression,
	"KILL":                             Expression,
	"CONTINUE":                         Expression,
	"WANT_SUSPEND":                     Expression,
	"STARTD_HAS_BAD_UTMP":              Plain,
	"CONSOLE_DEVICES":                  Plain,
	"SLOTS_CONNECTED_TO_CONSOLE":       Plain,
	"SLOTS_CONNECTED_TO_KEYBOARD":      Plain,
	"MAXJOBRETIREMENTTIME":             Expression,
	"MachineMaxVacateTime":             Expression,
	"STARTER_ALLOW_RUNAS_OWNER":        Plain,
	"DEDICATED_EXECUTE_ACCOUNT_REGEXP": Plain,
	"SLOT%d_USER":                      Plain,
	"SLOT1_%d_USER":                    Plain,
	"NUM_CPUS":                         Plain,
	"NUM_SLOTS_TYPE_1":                 Plain,
	"SLOT_TYPE_1":                      Plain,
	"SLOT_TYPE_1_PARTITIONABLE":        Plain,
	"RESERVED_MEMORY":                  Plain,
	"SPOOL":                            Plain,
	"EXECUTE":                          Plain,

	// the guard
	"USER_JOB_WRAPPER":            Plain,
	"WANT_HOLD":                   Expression,
	"WANT_HOLD_REASON":            Expression,
	"STARTD_CRON_JOBLIST":         Plain,
	"STARTD_CRON_GRID_EXECUTABLE": Plain,
	"STARTD_CRON_GRID_ARGS":       Plain,
	"STARTD_CRON_GRID_PERIOD":     Plain,
	"STARTD_CRON_GRID_MODE":       Plain,

	// timing
	"NEGOTIATOR_INTERVAL":        Plain,
	"NEGOTIATOR_MIN_INTERVAL":    Plain,
	"NEGOTIATOR_CYCLE_DELAY":     Plain,
	"NEGOTIATOR_UPDATE_INTERVAL": Plain,
	"UPDATE_INTERVAL":            Plain,
	"MASTER_UPDATE_INTERVAL":     Plain,
	"SCHEDD_INTERVAL":            Plain,
	"CLASSAD_LIFETIME":           Plain,
	"ALIVE_INTERVAL":             Plain,
	"CCB_HEARTBEAT_INTERVAL":     Plain,
	"TCP_KEEPALIVE_INTERVAL":     Plain,
	"DNS_CACHE_REFRESH":          Plain,
	"RunBenchmarks":              Expression,
	"FILETRANSFER_PLUGINS":       Plain,
	"LINUX_KERNEL_TUNING_SCRIPT": Plain,
	"SEC_TCP_SESSION_TIMEOUT":    Plain,
}

// Names returns the names of one kind, sorted; an index stands as %d.
func Names(kind Kind) []string {
	var list []string
	for n, k := range names {
		if k == kind {
			list = append(list, n)
		}
	}
	slices.Sort(list)
	return list
}
