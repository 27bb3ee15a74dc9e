//go:build goexperiment.runtimesecret

package unseal

import (
	"runtime"
	"runtime/secret"
)

// Clears reports that this build clears registers, stack and heap after the
// code that handles the key.
const Clears = true

// withoutResidue runs f and clears what it leaves. What f has left on the heap is
// cleared when it is collected, and not by anything else.
func withoutResidue(f func()) {
	secret.Do(f)
	runtime.GC()
}
