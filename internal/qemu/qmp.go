package qemu

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"
)

// qmpLimit is how long QEMU may take to answer a command.
const qmpLimit = 10 * time.Second

// command runs one QMP command over a connection of its own: greeting,
// qmp_capabilities, the command. Events that come between are passed over.
func (m *Machine) command(name string, arguments map[string]any) error {
	conn, err := m.dialQMP()
	if err != nil {
		return fmt.Errorf("qmp %s: %w", name, err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(qmpLimit))
	dec, enc := json.NewDecoder(conn), json.NewEncoder(conn)
	var greeting struct{ QMP json.RawMessage }
	if err := dec.Decode(&greeting); err != nil || greeting.QMP == nil {
		return fmt.Errorf("qmp %s: no greeting: %v", name, err)
	}
	type request struct {
		Execute   string         `json:"execute"`
		Arguments map[string]any `json:"arguments,omitempty"`
	}
	for _, r := range []request{{"qmp_capabilities", nil}, {name, arguments}} {
		if err := enc.Encode(r); err != nil {
			return fmt.Errorf("qmp %s: %w", r.Execute, err)
		}
		if err := answer(dec); err != nil {
			return fmt.Errorf("qmp %s: %w", r.Execute, err)
		}
	}
	return nil
}

// dialQMP connects; a QEMU that has only just started gets time to listen.
func (m *Machine) dialQMP() (net.Conn, error) {
	for deadline := time.Now().Add(qmpLimit); ; {
		conn, err := net.Dial("unix", m.qmpSocket())
		if err == nil {
			return conn, nil
		}
		select {
		case <-m.done:
			return nil, errors.New("the machine has ended")
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return nil, err
		}
	}
}

// answer reads up to the reply of the last command.
func answer(dec *json.Decoder) error {
	for {
		var reply struct {
			Event  string
			Return *json.RawMessage
			Error  *struct{ Class, Desc string }
		}
		if err := dec.Decode(&reply); err != nil {
			return err
		}
		switch {
		case reply.Error != nil:
			return errors.New(reply.Error.Desc)
		case reply.Return != nil:
			return nil
		}
	}
}
