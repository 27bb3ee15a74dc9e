//go:build !amd64

package xts

func fast() bool { return false }

func newFast([]byte) (*Cipher, error) { panic("xts: no fast path here") }

func encrypt(_, _ []byte, _ uint64) { panic("xts: no fast path here") }
