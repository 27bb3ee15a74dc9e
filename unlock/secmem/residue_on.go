//go:build goexperiment.runtimesecret

package secmem

import (
	"runtime"
	"runtime/secret"
)

// Clears reports that this build clears registers, stack and heap after the
// code that handles secrets.
const Clears = true

// WithoutResidue runs f and clears what it leaves. What f has left on the heap is
// cleared when it is collected, and not by anything else.
func WithoutResidue(f func()) {
	secret.Do(f)
	runtime.GC()
}
