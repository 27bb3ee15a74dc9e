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
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
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

// Forbidden skips a test of what a container or an ordinary user may not do,
// such as to mount; the arguments say what. Where the process has the right to
// it, something else is wrong, and the test fails as for what is missing.
func Forbidden(t testing.TB, format string, args ...any) {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rights, _ := strings.Cut(string(status), "CapEff:\t")
	rights, _, _ = strings.Cut(rights, "\n")
	if caps, err := strconv.ParseUint(rights, 16, 64); err != nil || caps&(1<<unix.CAP_SYS_ADMIN) != 0 {
		Missing(t, format, args...)
	}
	t.Skipf(format+", which this process has no right to", args...)
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
