package launch

// cpuid asks the processor for a function, subfunction 0.
//
//go:noescape
func cpuid(function uint32) (eax, ebx, ecx, edx uint32)
