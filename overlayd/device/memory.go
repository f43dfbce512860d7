package device

import (
	"fmt"
	"slices"
	"sync"
)

// Memory is a Host without a kernel, for tests in virtual time: what a
// program on the machine would send and receive goes through Send and
// Received. The zero Memory has no routes. Its methods are safe for
// concurrent use.
type Memory struct {
	mu      sync.Mutex
	routes  []Route
	devices map[string]*memoryDevice // open ones
}

type memoryDevice struct {
	host     *Memory
	config   Config
	toRead   chan []byte // Send -> Read
	received chan []byte // Write -> Received
	closed   chan struct{}
}

// memoryQueue is how many frames wait in each direction before one is lost,
// as in the kernel's transmit queue.
const memoryQueue = 64

// SetRoutes replaces the routes of the underlay.
func (m *Memory) SetRoutes(routes ...Route) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.routes = slices.Clone(routes)
}

// Routes implements Host.
func (m *Memory) Routes(except string) ([]Route, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(m.routes), func(r Route) bool { return r.Interface == except }), nil
}

// Open implements Host.
func (m *Memory) Open(cfg Config) (Device, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.devices[cfg.Name] != nil {
		return nil, fmt.Errorf("open %s: %w", cfg.Name, ErrBusy)
	}
	d := &memoryDevice{
		host:     m,
		config:   cfg,
		toRead:   make(chan []byte, memoryQueue),
		received: make(chan []byte, memoryQueue),
		closed:   make(chan struct{}),
	}
	if m.devices == nil {
		m.devices = make(map[string]*memoryDevice)
	}
	m.devices[cfg.Name] = d
	return d, nil
}

// Configure implements Host.
func (m *Memory) Configure(cfg Config) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.devices[cfg.Name]
	if d == nil {
		return fmt.Errorf("configure %s: %w", cfg.Name, ErrClosed)
	}
	if !cfg.Address.IsValid() {
		cfg.Address = d.config.Address
	}
	d.config = cfg
	return nil
}

// Config returns how the open device of that name is configured, and whether
// there is one.
func (m *Memory) Config(name string) (Config, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.devices[name]
	if d == nil {
		return Config{}, false
	}
	return d.config, true
}

// Send makes the machine send one frame by the device of that name. A frame
// for a device that is not open, or whose queue is full, is lost.
func (m *Memory) Send(name string, frame []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if d := m.devices[name]; d != nil {
		select {
		case d.toRead <- append(make([]byte, HeaderSize), frame...):
		default:
		}
	}
}

// Received waits for the next frame that reaches the machine by the device of
// that name; nil when it is not open, or no longer.
func (m *Memory) Received(name string) []byte {
	m.mu.Lock()
	d := m.devices[name]
	m.mu.Unlock()
	if d == nil {
		return nil
	}
	select {
	case frame := <-d.received:
		return frame
	case <-d.closed:
		return nil
	}
}

func (d *memoryDevice) Name() string { return d.config.Name }

func (d *memoryDevice) Read(b []byte) (int, error) {
	select {
	case <-d.closed:
		return 0, fmt.Errorf("read %s: %w", d.config.Name, ErrClosed)
	default:
	}
	select {
	case frame := <-d.toRead:
		return copy(b, frame), nil
	case <-d.closed:
		return 0, fmt.Errorf("read %s: %w", d.config.Name, ErrClosed)
	}
}

func (d *memoryDevice) ReadNow(b []byte) (int, error) {
	if len(d.toRead) == 0 {
		return 0, nil
	}
	return d.Read(b)
}

func (d *memoryDevice) Offloads() Offloads { return Offloads{} }

func (d *memoryDevice) Write(pieces ...[]byte) (int, error) {
	if err := checkPieces(pieces); err != nil {
		return 0, fmt.Errorf("write %s: %w", d.config.Name, err)
	}
	b := slices.Concat(pieces...)
	_, frame, _ := ParseHeader(b)
	select {
	case <-d.closed:
		return 0, fmt.Errorf("write %s: %w", d.config.Name, ErrClosed)
	default:
	}
	select {
	case d.received <- slices.Clone(frame):
	default:
	}
	return len(b), nil
}

func (d *memoryDevice) Close() error {
	d.host.mu.Lock()
	defer d.host.mu.Unlock()
	if d.host.devices[d.config.Name] == d {
		delete(d.host.devices, d.config.Name)
		close(d.closed)
	}
	return nil
}
