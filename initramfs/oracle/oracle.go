// Package oracle is only for tests: it finds the programs and files whose
// answers count as truth, such as cryptsetup and QEMU.
//
// Where one is missing, the test is skipped; with COCOROOT_REQUIRE_TOOLS=1,
// as in CI, it fails, so that no comparison is left out unseen.
package oracle

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Missing skips or fails the test; the arguments say what is missing and how
// to get it. It does not return.
func Missing(t testing.TB, format string, args ...any) {
	t.Helper()
	text := fmt.Sprintf(format, args...)
	if os.Getenv("COCOROOT_REQUIRE_TOOLS") == "1" {
		t.Fatal(text + ", and COCOROOT_REQUIRE_TOOLS=1")
	}
	t.Skip(text)
}

// Tool returns the path of a program, also of one in an administrator's
// folder.
func Tool(t testing.TB, name string) string {
	t.Helper()
	for _, p := range []string{name, "/usr/sbin/" + name, "/sbin/" + name} {
		if path, err := exec.LookPath(p); err == nil {
			return path
		}
	}
	Missing(t, "%s is not installed", name)
	return ""
}

// Run returns what the program prints, and fails the test when it fails.
func Run(t testing.TB, program string, args ...string) string {
	t.Helper()
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", program, args, err, out)
	}
	return string(out)
}

// Artifact returns the path of something that build.sh leaves in build/.
func Artifact(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(repository(), "build", name)
	if _, err := os.Stat(path); err != nil {
		Missing(t, "build/%s is not there (./build.sh test makes it)", name)
	}
	return path
}

// Vector reads a public test vector from the folder beside the repository.
func Vector(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(repository(), "../shared/vectors", name))
	if err != nil {
		Missing(t, "%v", err)
	}
	return data
}

// repository returns the folder of the source: the one above the test's package
// that has go.mod.
func repository() string {
	dir, err := os.Getwd()
	if err != nil {
		panic(err) // there is no working directory
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
	}
	panic("no go.mod above the test's folder")
}
