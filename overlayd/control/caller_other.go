//go:build !linux

package control

import (
	"context"
	"net"
)

// There is no overlayd here, only clients compile.
func withCaller(ctx context.Context, _ net.Conn) context.Context { return ctx }

func callerIsRoot(context.Context) bool { return false }
