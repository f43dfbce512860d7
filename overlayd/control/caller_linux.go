package control

import (
	"context"
	"net"

	"golang.org/x/sys/unix"
)

type callerKey struct{}

// withCaller notes who connected: the user ID at that time (unix(7),
// SO_PEERCRED), which nobody can claim falsely.
func withCaller(ctx context.Context, c net.Conn) context.Context {
	conn, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return ctx
	}
	var cred *unix.Ucred
	if raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }) != nil || err != nil {
		return ctx
	}
	return context.WithValue(ctx, callerKey{}, cred.Uid)
}

// callerIsRoot says whether root asked. Who is not known is not root.
func callerIsRoot(ctx context.Context) bool {
	uid, known := ctx.Value(callerKey{}).(uint32)
	return known && uid == 0
}
