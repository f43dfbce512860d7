package descriptortest

import (
	"archive/tar"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// OVF is what an envelope says.
type OVF struct {
	Files    map[string]int64 // href -> size
	Capacity int64            // of the disk, in bytes
	Networks []string         // of the cards, in order
	Family   string           // of the hardware
	Text     string           // the annotation
}

const (
	ovfSpace  = "http://schemas.dmtf.org/ovf/envelope/1"
	rasdSpace = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
	vmdkForm  = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"
)

// Envelope reads an OVF 1 envelope with one machine and one disk (DSP0243) and
// checks that what refers to something finds it.
func Envelope(text string) (*OVF, error) {
	root, err := Tree(text)
	if err != nil {
		return nil, err
	}
	if root.Name != "Envelope" || root.Space != ovfSpace {
		return nil, fmt.Errorf("ovf: the root is %s of %s", root.Name, root.Space)
	}
	var sections []string
	for _, c := range root.Children {
		sections = append(sections, c.Name)
	}
	if want := []string{"References", "DiskSection", "NetworkSection", "VirtualSystem"}; !slices.Equal(sections, want) {
		return nil, fmt.Errorf("ovf: sections %v, want %v", sections, want)
	}
	o := &OVF{Files: map[string]int64{}}
	files := map[string]bool{}
	for _, f := range root.Child("References").Children {
		size, err := strconv.ParseInt(f.Attributes["size"], 10, 64)
		if err != nil || files[f.Attributes["id"]] || f.Attributes["href"] == "" {
			return nil, fmt.Errorf("ovf: file %v", f.Attributes)
		}
		files[f.Attributes["id"]] = true
		o.Files[f.Attributes["href"]] = size
	}
	disk := root.Child("DiskSection").Child("Disk").Attributes
	if !files[disk["fileRef"]] || len(files) != 1 || disk["format"] != vmdkForm {
		return nil, fmt.Errorf("ovf: disk %v of files %v", disk, files)
	}
	if o.Capacity, err = strconv.ParseInt(disk["capacity"], 10, 64); err != nil {
		return nil, err
	}
	networks := map[string]bool{}
	for _, n := range root.Child("NetworkSection").All("Network") {
		networks[n.Attributes["name"]] = true
	}
	system := root.Child("VirtualSystem")
	hardware := system.Child("VirtualHardwareSection")
	o.Text = system.Child("AnnotationSection").Child("Annotation").Text
	o.Family = hardware.Child("System").Child("VirtualSystemType").Text
	return o, o.items(hardware.All("Item"), disk["diskId"], networks)
}

// items checks the machine's parts.
func (o *OVF) items(items []*Element, diskID string, networks map[string]bool) error {
	controllers, seen, kinds := map[string]bool{}, map[string]bool{}, map[string]int{}
	for _, item := range items {
		var names []string
		for _, c := range item.Children {
			if c.Space != rasdSpace {
				return fmt.Errorf("ovf: <%s> in an item is of %q", c.Name, c.Space)
			}
			names = append(names, c.Name)
		}
		if !slices.IsSorted(names) || len(slices.Compact(slices.Clone(names))) != len(names) {
			return fmt.Errorf("ovf: the elements of an item are not in order, each once: %v", names)
		}
		id := item.Child("InstanceID").Text
		if id == "" || seen[id] || item.Child("ElementName").Text == "" {
			return fmt.Errorf("ovf: InstanceID %q twice, empty, or without a name", id)
		}
		seen[id] = true
		kind := item.Child("ResourceType").Text
		kinds[kind]++
		switch kind {
		case "6":
			controllers[id] = true
		case "10":
			network := item.Child("Connection").Text
			if !networks[network] {
				return fmt.Errorf("ovf: a card on the network %q, which is not described", network)
			}
			o.Networks = append(o.Networks, network)
		case "17":
			if item.Child("HostResource").Text != "ovf:/disk/"+diskID || !controllers[item.Child("Parent").Text] {
				return fmt.Errorf("ovf: the disk is %s on %s", item.Child("HostResource").Text, item.Child("Parent").Text)
			}
		}
	}
	for _, one := range []string{"3", "4", "6", "17"} {
		if kinds[one] != 1 {
			return fmt.Errorf("ovf: %d parts of type %s", kinds[one], one)
		}
	}
	return nil
}

var manifestLine = regexp.MustCompile(`^SHA256\(([^()]+)\)= ([0-9a-f]{64})$`)

// OVA reads a package: envelope, manifest, files in the order in which the
// envelope names them, each with the size it states and the hash the manifest
// states. disk gets the bytes of the disk.
func OVA(r io.Reader, disk io.Writer) (*OVF, error) {
	archive := tar.NewReader(r)
	next := func(suffix string) (string, error) {
		h, err := archive.Next()
		if err != nil {
			return "", err
		}
		if !strings.HasSuffix(h.Name, suffix) || strings.ContainsAny(h.Name, `/\`) || h.Format != tar.FormatUSTAR || h.Typeflag != tar.TypeReg {
			return "", fmt.Errorf("ova: %s, format %v, where a file %s is due", h.Name, h.Format, suffix)
		}
		return h.Name, nil
	}
	sums, texts := map[string]string{}, [2][]byte{}
	for i, suffix := range []string{".ovf", ".mf"} {
		name, err := next(suffix)
		if err != nil {
			return nil, err
		}
		if texts[i], err = io.ReadAll(io.LimitReader(archive, 1<<20)); err != nil {
			return nil, err
		}
		if suffix == ".ovf" {
			sums[name] = fmt.Sprintf("%x", sha256.Sum256(texts[i]))
		}
	}
	o, err := Envelope(string(texts[0]))
	if err != nil {
		return nil, err
	}
	name, err := next(".vmdk")
	if err != nil {
		return nil, err
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(disk, sum), archive)
	if err != nil {
		return nil, err
	}
	if want, found := o.Files[name]; !found || want != n {
		return nil, fmt.Errorf("ova: %s has %d bytes, the envelope says %d", name, n, want)
	}
	sums[name] = fmt.Sprintf("%x", sum.Sum(nil))
	if _, err := archive.Next(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("ova: something after the disk: %v", err)
	}
	return o, manifest(string(texts[1]), sums)
}

// manifest checks that the manifest states these hashes, no more and no fewer.
func manifest(text string, sums map[string]string) error {
	stated := map[string]string{}
	for _, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		m := manifestLine.FindStringSubmatch(line)
		if m == nil || stated[m[1]] != "" {
			return fmt.Errorf("ova: manifest line %q", line)
		}
		stated[m[1]] = m[2]
		if sums[m[1]] != m[2] {
			return fmt.Errorf("ova: %s has SHA-256 %s, the manifest says %s", m[1], sums[m[1]], m[2])
		}
	}
	if len(stated) != len(sums) {
		return fmt.Errorf("ova: the manifest names %d files of %d", len(stated), len(sums))
	}
	return nil
}
