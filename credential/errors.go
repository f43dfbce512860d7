package credential

import "errors"

// What a refusal is about; every error of the package that a caller may want
// to tell apart wraps one of these and names both values that disagree.
var (
	ErrFormat         = errors.New("malformed")                            // not what the format's specification says
	ErrSignature      = errors.New("signature does not verify")            // tampered with, or signed by someone else
	ErrExpired        = errors.New("expired")                              // now is after the end
	ErrNotYetValid    = errors.New("not yet valid")                        // now is before the beginning
	ErrLifetime       = errors.New("valid for longer than allowed")        // a node certificate of more than NodeLifetime
	ErrWrongGrid      = errors.New("belongs to another grid")              // other name or other roots
	ErrWrongUser      = errors.New("user not allowed")                     // the signer does not have it
	ErrWrongGroup     = errors.New("group not allowed")                    // the signer does not have it
	ErrWrongRole      = errors.New("role not allowed")                     // the signer does not have it
	ErrWrongNamespace = errors.New("namespace not allowed")                // the signer or the descriptor does not have it
	ErrWrongRight     = errors.New("right not allowed")                    // address, route, router, gateway or quota
	ErrReserved       = errors.New("reserved name")                        // infra, condor, root, C + nine digits, master*, witness*
	ErrPathLength     = errors.New("certificate may not sign this")        // a holder signing a holder, a node signing anything
	ErrCritical       = errors.New("critical extension not understood")    // or ours missing, or not marked critical
	ErrKey            = errors.New("key does not match")                   // not P-256, not the certificate's, not the ID's
	ErrRoster         = errors.New("not in the roster")                    // a master or witness the descriptor does not list
	ErrRevoked        = errors.New("revoked")                              // named by a revocation list
	ErrOlder          = errors.New("older than one already seen")          // descriptor or revocation list
	ErrConflict       = errors.New("two different objects, one version")   // alarm: somebody misuses a root or issuer key
	ErrShrunk         = errors.New("entries are missing that still count") // a revocation list only grows
)
