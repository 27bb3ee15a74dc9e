package oracle

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Vector returns a file of testdata: what other tools computed.
func Vector(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(Repository(t), "initramfs/oracle/testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// Artifact returns the path of something that build.sh leaves in build/.
func Artifact(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(Repository(t), "build", name)
	if _, err := os.Stat(path); err != nil {
		Missing(t, "build/%s is not there (./build.sh test makes it)", name)
	}
	return path
}

// Fixture returns the path of something that only tests need, or of a file in
// it. build.sh makes it when it is not in the cache, which can take minutes;
// fixtures/make.sh has the list.
func Fixture(t testing.TB, name string) string {
	t.Helper()
	top, _, _ := strings.Cut(name, "/")
	root := Repository(t)
	if out, err := exec.Command(filepath.Join(root, "build.sh"), "fixture", top).CombinedOutput(); err != nil {
		Missing(t, "./build.sh fixture %s: %v: %s", top, err, out)
	}
	return filepath.Join(root, "build", name)
}

// Repository returns the folder of the source: the one above the test's package
// that has go.mod.
func Repository(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
	}
	t.Fatal("no go.mod above the test's folder")
	return ""
}
