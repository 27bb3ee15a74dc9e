package luks2

var (
	ErrNotLUKS2  = errNotLUKS2
	ErrSecondary = errSecondary
	ErrLUKS1     = errLUKS1
	ErrChecksum  = errChecksum
)
