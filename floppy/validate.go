package floppy

import (
	"time"

	"gridappliance/internal/diag"
)

// Validate returns every problem in what the configuration means by itself.
func (c *Config) Validate() diag.List { return nil }

// Check returns every problem in what the floppy means at the time now.
func (f *Floppy) Check(now time.Time) diag.List { return f.Config.Validate() }
