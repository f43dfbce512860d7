package floppy

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	"gridappliance/credential"
	"gridappliance/internal/diag"
)

// ipopSchema is IPOP.XML, below IpopConfig.
var ipopSchema = schema{
	"IpopNamespace":        leaf,
	"VirtualNetworkDevice": leaf,
	"AddressData":          branch,
	"AddressData/Hostname": leaf,
	"EnableMulticast":      leaf,
}

// ipopKeys says which key of GRID.TML an element of IPOP.XML stands for.
var ipopKeys = map[string]string{
	"IpopNamespace":        "network.namespace",
	"VirtualNetworkDevice": "network.device",
	"AddressData/Hostname": "network.hostname",
	"EnableMulticast":      "network.multicast",
}

// dhcpSchema is DHCP.XML, below DHCPServerConfig.
var dhcpSchema = schema{
	"Namespace":                           leaf,
	"netmask":                             leaf,
	"pool":                                branch,
	"pool/lower":                          leaf,
	"pool/upper":                          leaf,
	"DHCPReservedIPs":                     branch,
	"DHCPReservedIPs/DHCPReservedIP":      list,
	"DHCPReservedIPs/DHCPReservedIP/ip":   leaf,
	"DHCPReservedIPs/DHCPReservedIP/mask": leaf,
	"leasetime":                           leaf,
}

// foldXML reads the files of the first generation. What IPOP.XML says becomes
// part of the configuration; DHCP.XML is kept for Check to hold against the
// descriptor.
func (f *Floppy) foldXML() diag.List {
	var problems diag.List
	if f.IPOPXML != nil {
		problems = f.foldIPOP(inFile(f.Name, IPOPXMLFile))
	}
	if f.DHCPXML != nil {
		var wrong diag.List
		f.DHCP, wrong = decodeDHCP(inFile(f.Name, DHCPXMLFile), f.DHCPXML)
		problems = append(problems, wrong...)
	}
	return problems
}

// foldIPOP sets the keys that IPOP.XML stands for. A key that GRID.TML sets
// to another value is a problem that names both.
func (f *Floppy) foldIPOP(file string) diag.List {
	leaves, problems := readXML(file, f.IPOPXML, "IpopConfig", ipopSchema)
	for _, l := range leaves {
		value, wrong := ipopValue(l)
		if wrong != nil {
			problems.Add(*wrong)
			continue
		}
		if f.Config == nil {
			continue
		}
		path := ipopKeys[l.path]
		toml, set := f.Config.where[path]
		_, target := f.Config.find(path)
		if set {
			if !f.Config.wrong[path] && valueOf(target) != value {
				l.where.Message = fmt.Sprintf("is %v, but %s of %s is %v (line %d)", quoted(value), path, ConfigFile, quoted(valueOf(target)), toml.Line)
				l.where.Remedy = "make the two agree, or delete one"
				problems.Add(l.where)
			}
			continue
		}
		switch p := target.(type) {
		case *string:
			*p = value.(string)
		case *bool:
			*p = value.(bool)
		}
		f.Config.where[path] = l.where
	}
	return problems
}

// ipopValue returns what an element of IPOP.XML says, as a text or as true or
// false.
func ipopValue(l xmlLeaf) (any, *diag.Problem) {
	wrong := func(message, remedy string) (any, *diag.Problem) {
		l.where.Message, l.where.Remedy = message, remedy
		return nil, &l.where
	}
	if l.text == "" {
		return wrong("is empty", "fill it in, or delete the element")
	}
	if l.path != "EnableMulticast" {
		return l.text, nil
	}
	switch strings.ToLower(l.text) {
	case "true", "1":
		return true, nil
	case "false", "0":
		return false, nil
	}
	return wrong(fmt.Sprintf("%q is not true or false", printable(l.text)), "write true or false")
}

// valueOf returns what a *string or *bool points at.
func valueOf(target any) any {
	switch p := target.(type) {
	case *string:
		return *p
	case *bool:
		return *p
	}
	return nil
}

// quoted returns a text in quotes, true and false without.
func quoted(v any) string {
	if s, ok := v.(string); ok {
		return strconv.Quote(s)
	}
	return fmt.Sprint(v)
}

// DHCPServer is DHCP.XML decoded: the address pool of the first generation.
type DHCPServer struct {
	Namespace string
	Pool      netip.Prefix // IPv4, no bits beyond the mask
	Reserved  []credential.Reserved
	LeaseTime int // seconds

	where map[string]diag.Problem // element -> its position
}

// DecodeDHCPXML reads the text of DHCP.XML; name is what problems call the
// file. The error is a diag.List.
func DecodeDHCPXML(name string, text []byte) (*DHCPServer, error) {
	text, problems := normalText(name, text)
	if len(problems) > 0 {
		return nil, problems
	}
	server, problems := decodeDHCP(name, text)
	if len(problems) > 0 {
		return nil, problems
	}
	return server, nil
}

// dhcpReader gathers the values of DHCP.XML.
type dhcpReader struct {
	server                *DHCPServer
	lower, upper, netmask netip.Addr
	problems              diag.List
}

// decodeDHCP reads normal text; the server is nil when there is a problem.
func decodeDHCP(file string, text []byte) (*DHCPServer, diag.List) {
	leaves, problems := readXML(file, text, "DHCPServerConfig", dhcpSchema)
	if len(problems) > 0 {
		return nil, problems
	}
	r := dhcpReader{server: &DHCPServer{where: map[string]diag.Problem{"": {File: file}}}}
	for _, l := range leaves {
		r.server.where[l.path] = l.where
		r.take(l)
	}
	for _, path := range []string{"Namespace", "netmask", "pool/lower", "pool/upper", "leasetime"} {
		if _, ok := r.server.where[path]; !ok {
			r.problems.Add(diag.Problem{File: file, Path: path, Message: "is missing"})
		}
	}
	if r.netmask.IsValid() && r.lower.IsValid() && r.upper.IsValid() {
		r.makePool()
	}
	r.checkReserved()
	if len(r.problems) > 0 {
		return nil, r.problems
	}
	return r.server, nil
}

// add reports a problem with an element.
func (r *dhcpReader) add(path, message, remedy string) {
	r.problems.Add(r.server.problem(path, message, remedy))
}

func (s *DHCPServer) problem(path, message, remedy string) diag.Problem {
	p, ok := s.where[path]
	if !ok {
		p = diag.Problem{File: s.where[""].File, Path: path}
	}
	p.Message, p.Remedy = message, remedy
	return p
}

// take stores one value.
func (r *dhcpReader) take(l xmlLeaf) {
	if l.text == "" {
		r.add(l.path, "is empty", "fill it in")
		return
	}
	switch l.path {
	case "Namespace":
		r.server.Namespace = l.text
		return
	case "leasetime":
		n, err := strconv.ParseUint(l.text, 10, 31)
		if err != nil || n == 0 {
			r.add(l.path, fmt.Sprintf("%q is not a number of seconds", printable(l.text)), "write seconds, such as 3600")
		}
		r.server.LeaseTime = int(n)
		return
	}
	addr, err := netip.ParseAddr(l.text)
	if err != nil || !addr.Is4() {
		r.add(l.path, fmt.Sprintf("%q is not an IPv4 address", printable(l.text)), "write four numbers, such as 10.250.0.0")
		return
	}
	reserved := &r.server.Reserved
	switch l.path {
	case "netmask":
		r.netmask = addr
	case "pool/lower":
		r.lower = addr
	case "pool/upper":
		r.upper = addr
	default: // a half of DHCPReservedIPs/DHCPReservedIP[n]
		group, field := path.Split(l.path)
		if _, both := r.server.where[group]; !both { // the first of the pair
			r.server.where[group] = l.where
			*reserved = append(*reserved, credential.Reserved{})
		}
		if last := &(*reserved)[len(*reserved)-1]; field == "ip" {
			last.Address = addr
		} else {
			last.Mask = addr
		}
	}
}

// makePool turns netmask, lower and upper into one prefix.
func (r *dhcpReader) makePool() {
	mask := r.netmask.As4()
	ones := 0
	for ones < 32 && mask[ones/8]&(0x80>>(ones%8)) != 0 {
		ones++
	}
	pool, _ := r.lower.Prefix(ones)
	switch {
	case netmask(ones) != r.netmask:
		r.add("netmask", r.netmask.String()+" is not a netmask", "write ones before zeros, such as 255.255.0.0")
	case pool.Addr() != r.lower:
		r.add("pool/lower", fmt.Sprintf("%v is not the first address of its network %v", r.lower, pool), "write "+pool.Addr().String())
	case lastAddress(pool) != r.upper:
		r.add("pool/upper", fmt.Sprintf("%v is not the last address of %v", r.upper, pool), "write "+lastAddress(pool).String())
	default:
		r.server.Pool = pool
	}
}

// checkReserved reports pairs that lack a half.
func (r *dhcpReader) checkReserved() {
	for i, v := range r.server.Reserved {
		if !v.Address.IsValid() || !v.Mask.IsValid() {
			r.add(fmt.Sprintf("DHCPReservedIPs/DHCPReservedIP[%d]/", i+1), "needs both ip and mask", "")
		}
	}
}

// netmask returns the IPv4 mask with the first ones bits set.
func netmask(ones int) netip.Addr {
	p, _ := netip.AddrFrom4([4]byte{255, 255, 255, 255}).Prefix(ones)
	return p.Addr()
}

// lastAddress returns the highest address of an IPv4 prefix.
func lastAddress(p netip.Prefix) netip.Addr {
	a, mask := p.Addr().As4(), netmask(p.Bits()).As4()
	for i := range a {
		a[i] |= ^mask[i]
	}
	return netip.AddrFrom4(a)
}

// Check returns a problem for everything in which the pool differs from the
// descriptor's, naming both values: the descriptor is signed and counts.
func (s *DHCPServer) Check(d *credential.Descriptor) diag.List {
	var problems diag.List
	const remedy = "delete " + DHCPXMLFile + ": the pool comes from the descriptor; builder grid new --from makes a grid of it"
	differ := func(path string, has, signed any) {
		problems.Add(s.problem(path, fmt.Sprintf("is %v, but the grid's signed descriptor has %v", has, signed), remedy))
	}
	i := slices.IndexFunc(d.Namespaces, func(n credential.Namespace) bool { return n.Name == s.Namespace })
	if i < 0 {
		var names []string
		for _, n := range d.Namespaces {
			names = append(names, n.Name)
		}
		differ("Namespace", strconv.Quote(s.Namespace), strconv.Quote(strings.Join(names, ", ")))
		return problems
	}
	n := d.Namespaces[i]
	if n.Pool != s.Pool {
		differ("pool/lower", s.Pool, n.Pool)
	}
	if n.LeaseTime != s.LeaseTime {
		differ("leasetime", s.LeaseTime, n.LeaseTime)
	}
	if has, signed := reservedText(s.Reserved), reservedText(n.Reserved); has != signed {
		differ("DHCPReservedIPs/DHCPReservedIP[1]", has, signed)
	}
	return problems
}

// reservedText returns reserved patterns as text, in one order.
func reservedText(list []credential.Reserved) string {
	if len(list) == 0 {
		return "none"
	}
	texts := make([]string, len(list))
	for i, r := range list {
		texts[i] = r.Address.String() + "/" + r.Mask.String()
	}
	slices.Sort(texts)
	return strings.Join(slices.Compact(texts), ", ")
}
