//go:build !goexperiment.runtimesecret

package secmem

// Clears reports that this build leaves copies of secrets in memory: it is for
// vet and unit tests, and init refuses to boot with it.
const Clears = false

// WithoutResidue runs f.
func WithoutResidue(f func()) { f() }
