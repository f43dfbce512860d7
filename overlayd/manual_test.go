package main

import (
	"testing"

	"gridappliance/internal/manual"
)

func TestManualPages(t *testing.T) { manual.Check(t, newRootCommand(), "../docs/man") }
