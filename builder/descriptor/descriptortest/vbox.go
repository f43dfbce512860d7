package descriptortest

import (
	"fmt"
	"regexp"

	"github.com/google/uuid"
)

// VBoxMachine is what a .vbox says.
type VBoxMachine struct {
	ID      uuid.UUID
	Media   map[string]uuid.UUID // location -> UUID, disks and floppies
	Disk    string               // location of the attached disk
	Floppy  string               // of the attached floppy; "" = an empty drive
	Order   []string             // of booting
	Adapter []string             // how each card is attached: NAT, HostOnlyInterface
}

var (
	braced = regexp.MustCompile(`^\{([0-9a-f-]{36})\}$`)
	mac    = regexp.MustCompile(`^080027[0-9A-F]{6}$`)
)

// VBox reads a .vbox. Every UUID is there once, every attached medium is
// registered, every registered one attached.
func VBox(text string) (*VBoxMachine, error) {
	root, err := Tree(text)
	if err != nil {
		return nil, err
	}
	if root.Name != "VirtualBox" || root.Space != "http://www.virtualbox.org/" {
		return nil, fmt.Errorf("vbox: the root is %s of %s", root.Name, root.Space)
	}
	machine := root.Child("Machine")
	m := &VBoxMachine{Media: map[string]uuid.UUID{}}
	if m.ID, err = identity(machine); err != nil {
		return nil, err
	}
	seen := map[uuid.UUID]string{m.ID: "the machine"}
	registry := machine.Child("MediaRegistry")
	for _, medium := range append(registry.Child("HardDisks").Children, registry.Child("FloppyImages").Children...) {
		id, err := identity(medium)
		if err != nil {
			return nil, err
		}
		location := medium.Attributes["location"]
		if seen[id] != "" || location == "" {
			return nil, fmt.Errorf("vbox: medium %q has the UUID of %s", location, seen[id])
		}
		seen[id] = location
		m.Media[location] = id
	}
	return m, m.hardware(machine, seen)
}

// hardware reads what is attached.
func (m *VBoxMachine) hardware(machine *Element, seen map[uuid.UUID]string) error {
	names := map[string]bool{}
	for _, c := range machine.Child("StorageControllers").Children {
		if name := c.Attributes["name"]; name == "" || names[name] {
			return fmt.Errorf("vbox: two controllers are called %q", name)
		}
		names[c.Attributes["name"]] = true
		for _, a := range c.All("AttachedDevice") {
			location := ""
			if image := a.All("Image"); len(image) == 1 {
				id, err := identity(image[0])
				if err != nil {
					return err
				}
				if location = seen[id]; location == "" || m.Media[location] != id {
					return fmt.Errorf("vbox: %v is attached, but not registered", id)
				}
			}
			switch a.Attributes["type"] {
			case "HardDisk":
				m.Disk = location
			case "Floppy":
				m.Floppy = location
			default:
				return fmt.Errorf("vbox: a device of type %q", a.Attributes["type"])
			}
		}
	}
	for location := range m.Media {
		if location != m.Disk && location != m.Floppy {
			return fmt.Errorf("vbox: %s is registered, but not attached", location)
		}
	}
	macs := map[string]bool{}
	for _, a := range machine.Child("Hardware").Child("Network").Children {
		address := a.Attributes["MACAddress"]
		if !mac.MatchString(address) || macs[address] || len(a.Children) != 1 {
			return fmt.Errorf("vbox: adapter %s with address %q", a.Attributes["slot"], address)
		}
		macs[address] = true
		m.Adapter = append(m.Adapter, a.Children[0].Name)
	}
	for i, o := range machine.Child("Hardware").Child("Boot").Children {
		if o.Attributes["position"] != fmt.Sprint(i+1) {
			return fmt.Errorf("vbox: boot position %s at place %d", o.Attributes["position"], i+1)
		}
		m.Order = append(m.Order, o.Attributes["device"])
	}
	return nil
}

func identity(e *Element) (uuid.UUID, error) {
	b := braced.FindStringSubmatch(e.Attributes["uuid"])
	if b == nil {
		return uuid.UUID{}, fmt.Errorf("vbox: <%s> has no UUID in braces: %q", e.Name, e.Attributes["uuid"])
	}
	return uuid.Parse(b[1])
}
