//go:build !linux

package format

import "errors"

func exchange(_, _ string) error { return errors.ErrUnsupported }
