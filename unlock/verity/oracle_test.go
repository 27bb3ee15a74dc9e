package verity

import (
	"os"
	"os/exec"
	"testing"
)

// oracle returns the path of a program whose word counts as truth. Where it
// is missing the test is skipped, and fails when COCOROOT_REQUIRE_TOOLS=1.
func oracle(t *testing.T, name string) string {
	t.Helper()
	for _, p := range []string{name, "/usr/sbin/" + name, "/sbin/" + name} {
		if path, err := exec.LookPath(p); err == nil {
			return path
		}
	}
	if os.Getenv("COCOROOT_REQUIRE_TOOLS") == "1" {
		t.Fatalf("%s is not installed, and COCOROOT_REQUIRE_TOOLS=1", name)
	}
	t.Skipf("%s is not installed", name)
	return ""
}

// run returns what the program prints and fails the test when it fails.
func run(t *testing.T, prog string, args ...string) string {
	t.Helper()
	out, err := exec.Command(prog, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", prog, args, err, out)
	}
	return string(out)
}
