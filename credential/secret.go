package credential

import (
	"fmt"
	"io"
	"log/slog"
)

// Secret is a private key as PEM text. It prints as "[secret]" through fmt,
// log/slog, encoding/json and every other user of MarshalText; only a
// conversion to []byte gives it away.
type Secret []byte

const redacted = "[secret]"

// String returns "[secret]".
func (Secret) String() string { return redacted }

// Format writes "[secret]" for every verb, %x and %#v included.
func (Secret) Format(s fmt.State, _ rune) { io.WriteString(s, redacted) }

// LogValue returns "[secret]".
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText returns "[secret]", so that no encoder writes a key by mistake.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
