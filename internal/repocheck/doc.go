// Package repocheck holds the rules of this repository as tests: that every
// package says what it is, that imports point one way, that the commands in
// the documents exist, that every dependency is accounted for, and that no
// host of a package registry is written down.
//
// It has no code outside its tests.
package repocheck
