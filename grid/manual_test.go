package main

import (
	"flag"
	"testing"

	"gridappliance/internal/manual"
)

var _ = flag.Bool("update", false, "rewrite the manual pages")

func TestManualPages(t *testing.T) { manual.Check(t, newRootCommand(here()), "../docs/man") }
