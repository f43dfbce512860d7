package main

import (
	"flag"
	"testing"

	"gridappliance/internal/manual"
)

var update = flag.Bool("update", false, "rewrite the manual pages and golden files")

func TestManualPages(t *testing.T) { manual.Check(t, newRootCommand(), "../docs/man") }
