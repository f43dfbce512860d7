package node

import (
	"fmt"
	"slices"
	"strings"

	"gridappliance/overlayd/control"
	"gridappliance/overlayd/lease"
)

// publish makes the status of the moment the one to be read.
func (n *Node) publish(state control.State) {
	d, node := n.identity.Descriptor, n.cert.Node
	s := control.Status{
		State: state, Version: n.cfg.Version, Grid: node.Grid, Namespace: node.Namespace,
		NodeID: node.ID.String(), Role: string(node.Role), User: node.User, Group: node.Group,
		Device: n.cfg.Device, Masters: []control.Master{}, Descr: d.Version,
		Address6: n.deviceConfig().Address6, HostNames: n.hostNames(), DNS: n.dns(), Revoked: n.core.Versions().Revocations, Barred: n.lan.AllBarred(), Alarms: n.alarms,
		Cert: control.Certificate{Serial: node.Serial, NotBefore: node.NotBefore, NotAfter: node.NotAfter},
	}
	for _, m := range d.Masters {
		if m.Namespace == node.Namespace {
			s.Masters = append(s.Masters, control.Master{Name: control.HostName(m.Address), Address: m.Address})
		}
	}
	switch {
	case n.refused != nil:
		s.Reason = n.refused.Error()
	case n.presence.conflict != nil:
		s.Reason = n.presence.conflict.Error()
	case state == control.StateJoining && !n.address.IsValid():
		s.Reason = n.waitsFor()
	}
	if err := n.files.Failed(); err != nil && s.Reason == "" {
		s.Reason = fmt.Sprintf("what it must remember is not written, and tried again: %v", err)
	}
	if n.deviceUp && state == control.StateRunning {
		if _, l := n.core.Lease(claimAddress); !n.fixed {
			s.Lease = control.Lease{State: n.leaseState.String(), Until: l.Until().Round(0)}
		}
		s.Address, s.Name, s.Since = n.address, control.HostName(n.address.Addr()), n.since
	}
	n.server.Publish(s)
	if s.Reason != n.reason && s.Reason != "" {
		n.log.Warn("not running as it should", "reason", s.Reason)
	}
	n.reason = s.Reason
	if line := summary(s); line != n.told {
		n.cfg.Notify("STATUS=" + line)
		n.told = line
	}
}

// waitsFor says why a node that needs an address lease has none.
func (n *Node) waitsFor() string {
	switch {
	case n.core.Connections() == 0 && len(n.outside.found) == 0 && len(n.names()) == 0:
		return "no first contact: neither descriptor nor floppy names one (builder grid new --bootstrap HOST:PORT)"
	case n.core.Connections() == 0:
		return "no first contact has answered: " + strings.Join(n.firstContacts(), ", ")
	case n.leaseState == lease.Stopped:
		return "another machine uses this node's key: stop one of them"
	case !n.member:
		return "finding its place among the grid's nodes"
	case n.leaseState == lease.Validating:
		return "asking the witnesses whether its address is still its own"
	}
	return "asking the witnesses for an address"
}

// firstContacts says whom this node calls, or would if the names were found.
func (n *Node) firstContacts() (out []string) {
	for _, c := range n.outside.found {
		if text := string(c.Source) + " " + c.Where; !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	for _, c := range n.names() {
		if text := string(c.Source) + " " + c.Text; !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	return out
}

// summary is the status in a line, for systemctl status.
func summary(s control.Status) string {
	line := string(s.State)
	if s.Address.IsValid() {
		line += " as " + s.Name + " " + s.Address.String()
	}
	if s.Reason != "" {
		line += ": " + s.Reason
	}
	return line
}

// Status returns what the control socket shows.
func (n *Node) Status() control.Status {
	s, _ := n.server.Status()
	return s
}
