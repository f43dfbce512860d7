// Package credential makes and verifies who is who in a grid.
package credential
