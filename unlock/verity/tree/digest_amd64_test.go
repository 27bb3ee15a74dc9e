//go:build !purego

package tree

import (
	"os"
	"regexp"
	"testing"
)

// TestFastDigestsAreTested: where the kernel sees the instructions, the
// assembly runs, and TestDigests has looked at it.
func TestFastDigestsAreTested(t *testing.T) {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	if has := regexp.MustCompile(`(?m)^flags\s*:.* sha_ni( |$)`).Match(text); has != fast() {
		t.Errorf("sha_ni in /proc/cpuinfo: %t; the assembly is used: %t", has, fast())
	}
}
