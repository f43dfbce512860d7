package floppy

import "gridappliance/internal/diag"

// DHCPServer is DHCP.XML decoded.
type DHCPServer struct{}

func (f *Floppy) foldXML() diag.List { return nil }
