//go:build !amd64 || purego

package tree

func fast() bool { return false }

func appendFast(_, _, _ []byte) []byte { panic("tree: no fast path here") }
