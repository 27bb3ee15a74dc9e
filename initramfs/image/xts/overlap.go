package xts

import "unsafe"

// overlap reports whether two slices of the same length share memory without
// being the same.
func overlap(a, b []byte) bool {
	x, y := uintptr(unsafe.Pointer(&a[0])), uintptr(unsafe.Pointer(&b[0]))
	n := uintptr(len(a))
	return x != y && x < y+n && y < x+n
}
