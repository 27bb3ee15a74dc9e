//go:build goexperiment.runtimesecret

package unseal

import "runtime/secret"

// Clears reports that this build clears registers, stack and heap behind the
// code that handles the key.
const Clears = true

func withoutResidue(f func()) { secret.Do(f) }
