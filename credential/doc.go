// Package credential makes and verifies who is who in a grid: roots, issuers,
// holders, nodes; the signed descriptor; revocation; and the credentials of
// HTCondor, which have a root of their own.
//
//	grid root ──signs──> descriptor (GRID.DSC), revocation list
//	    │
//	    ├──> holder of a master or witness ───┐
//	    ├──> holder of a person ──────────────┤   24 h, made by the machine
//	    └──> issuer ──> holder of a person ───┴──> node
//	         (portal)   (HOLDER.CRT, .KEY)         (P-256, X25519, ID, instance)
//
//	HTCondor root ──> ISSUER of one master, 90 days ──> credential, 24 h
//
// Each certificate may claim a subset of the one above it and nothing more.
// Verifier decides; Trust remembers, so that nothing older is accepted later.
//
// # Certificates
//
// X.509 version 3, P-256, ECDSA with SHA-256, serials of 127 random bits. What
// they claim stands in one critical extension, so that no other software
// accepts a chain through a holder:
//
//	             CA   path length  key usage          extension
//	root         yes  2            certSign           none
//	issuer       yes  1            certSign           kind 1
//	holder       yes  0            certSign           kind 2
//	node         no   -            digitalSignature   kind 3
//
// Critical extensions other than key usage, basic constraints and ours are
// refused, those that crypto/x509 knows included. The subject is derived from
// the attributes and must equal them; it decides nothing.
//
// # The extension
//
// Its OID is 1.2.840.113556.1.8000.2554.9480.19412.41092.19646.37023.1971854.11938696.1
// (docs/decisions/0010-holder-extension.md). Its value is the DER encoding of
//
//	GridAttributes ::= SEQUENCE {
//	  version     INTEGER,                 -- 1
//	  kind        INTEGER,                 -- 1 issuer, 2 holder, 3 node
//	  grid        UTF8String,              -- [a-z][a-z0-9-]{0,31}
//	  user        UTF8String,              -- [a-z][a-z0-9_-]{0,31}; issuer: empty, any
//	  groups      SEQUENCE OF UTF8String,  -- as grid; holder, node: one
//	  roles       SEQUENCE OF UTF8String,  -- as grid; node: one of worker, client, master
//	  namespaces  SEQUENCE OF UTF8String,  -- [A-Za-z][A-Za-z0-9._-]{0,31}; node: one
//	  router      BOOLEAN,                 -- may lease for machines on a LAN
//	  gateway     BOOLEAN,                 -- may carry traffic to the internet
//	  addresses   SEQUENCE OF UTF8String,  -- fixed: "10.250.0.2"
//	  routes      SEQUENCE OF UTF8String,  -- "192.168.7.0/24"
//	  leases      INTEGER,                 -- 0 to 1048576 addresses at a time
//	  relayMbit   INTEGER,                 -- 0 to 1048576 Mbit/s for other namespaces
//	  nodeID      OCTET STRING,            -- node: 16 bytes; else empty
//	  x25519      OCTET STRING,            -- node: 32 bytes, not all zero; else empty
//	  instance    UTF8String               -- node: [A-Za-z0-9:._-]{1,128}; else empty
//	}
//
// Lists hold at most 64 elements in ascending order of their bytes (addresses
// and routes: of their numbers), none twice; groups, roles and namespaces at
// least one. All is at most 8 KiB. Whatever encodes the same attributes in
// other bytes is refused. Roles this version does not know are allowed and mean
// nothing. The node ID is the first 16 bytes of
// SHA-256("grid-appliance node id\x00" || SubjectPublicKeyInfo).
//
// # Signed objects
//
// Descriptor and revocation list are a PEM block of the body ("GRID DESCRIPTOR",
// "GRID REVOCATIONS"), then one to four "GRID SIGNATURE" blocks:
//
//	offset size field
//	0      32   SHA-256 of the signer's SubjectPublicKeyInfo
//	32     n    ECDSA signature, ASN.1, over SHA-256("grid-appliance " type "\x00" body)
//
// The body is JSON on one line with the fields of Descriptor or RevocationList
// in their order, and is accepted only if encoding it again gives the same
// bytes: an unknown, missing, repeated or reordered field, another spacing or
// trailing data is an error. An object is its body: ECDSA signatures can be
// rewritten, so they and fingerprints over them compare nothing here. For the
// same reason revocation goes by serial and public key.
//
// From epoch 2 a descriptor has a Change: the witnesses of the epoch before, and
// the proof that the epoch before that one has stopped. Epoch 1 has none, and
// its descriptors keep the bytes they had before Change existed.
//
// A new root is introduced by a descriptor that names both and is signed by the
// old one; every descriptor is signed by one of the roots it names.
//
// # Time
//
// Every check is handed the time. What a person carries to a machine begins a
// day before it was signed, because a machine may take local time for UTC until
// it has found a time server; what machines make for each other begins an hour
// before. Trust.Newest and Descriptor.Issued tell a machine how late it is at
// least; CheckSignature reads no clock, so that it can ask them first.
//
// # Properties
//
// Nothing here opens a socket or starts a goroutine; only Grid touches files.
// Parsers never panic and bound what they allocate by the size of their input.
// Private keys are of type Secret, which does not print. A Verifier may be used
// concurrently; Grid and Trust may not.
//
// Limits on purpose: one signature algorithm; no CRL, OCSP or CSR; at most nine
// masters and nine witnesses; pools are IPv4.
//
// Sources: RFC 5280 §4.2, §6.1; RFC 5915; RFC 5958; X.690; RFC 7748.
package credential
