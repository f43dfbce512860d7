// Package vnet is the virtual LAN as the machine sees it: Ethernet and IP
// headers, the answers to its questions about hardware addresses, and the
// queue of packets that wait until it is known who has an address.
//
// Every other address of the LAN seems to be at one hardware address,
// Neighbour: nothing is asked of other nodes, because the overlay carries IP
// packets and finds out by itself who has an address.
//
// The package is pure: bytes and times in, bytes out. Its functions are safe
// for concurrent use; a Queue is for one goroutine. No packet makes it panic.
//
// Sources: RFC 826 (ARP); RFC 5227 §2.1 (probes are not answered for oneself);
// RFC 4861 §4.3, §4.4, §7.2 (neighbour discovery); RFC 4443 §2.3 (checksum);
// RFC 791; RFC 8200.
package vnet
