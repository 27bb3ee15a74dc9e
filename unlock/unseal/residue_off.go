//go:build !goexperiment.runtimesecret

package unseal

// Clears reports that this build leaves copies of the key behind: it is for
// vet and unit tests, and init refuses to boot with it.
const Clears = false

func withoutResidue(f func()) { f() }
