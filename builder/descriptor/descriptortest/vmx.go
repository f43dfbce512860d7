// Package descriptortest reads the texts of builder/descriptor strictly, by
// what is known of the hypervisors' own readers and by nothing the writers
// share: a key named twice, a reference to nothing, an element out of order are
// errors. Only tests import it.
package descriptortest

import (
	"fmt"
	"regexp"
	"strings"
)

var vmxLine = regexp.MustCompile(`^([A-Za-z0-9.:]+|\.encoding) = "([^"\\]*)"$`)

// VMX reads a .vmx: lines KEY = "VALUE". Keys are compared without regard to
// case and returned in lower case.
func VMX(text string) (map[string]string, error) {
	if !strings.HasSuffix(text, "\n") {
		return nil, fmt.Errorf("vmx: the last line has no end")
	}
	keys := map[string]string{}
	for i, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		m := vmxLine.FindStringSubmatch(line)
		if m == nil {
			return nil, fmt.Errorf("vmx: line %d is no KEY = \"VALUE\": %s", i+1, line)
		}
		key := strings.ToLower(m[1])
		if _, twice := keys[key]; twice {
			return nil, fmt.Errorf("vmx: line %d: %s for the second time", i+1, key)
		}
		keys[key] = m[2]
	}
	for _, want := range []string{"config.version", "virtualhw.version", "guestos", "displayname"} {
		if keys[want] == "" {
			return nil, fmt.Errorf("vmx: no %s", want)
		}
	}
	for key := range keys { // what belongs to a device that is not there
		device, _, _ := strings.Cut(key, ".")
		if strings.ContainsAny(device, "0123456789") && keys[device+".present"] == "" {
			return nil, fmt.Errorf("vmx: %s, but no %s.present", key, device)
		}
	}
	return keys, nil
}
