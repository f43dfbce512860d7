//go:build !linux

package base

// flush does nothing where nothing is built: what is fetched is checked.
func flush(string) error { return nil }
