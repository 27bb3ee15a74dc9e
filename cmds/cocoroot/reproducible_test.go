package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/oracle"
)

// nobody is the user who archives the second time, when the test may choose.
const nobody = 65534

// TestInitrdIsReproducible builds init and archive twice from source: in two
// folders, with two build caches, umasks, time zones, homes and user names;
// as root, the second archive is another user's.
func TestInitrdIsReproducible(t *testing.T) {
	first := buildArchive(t, 0, "umask 022", "TZ=UTC", "USER=root", "HOME=/root")
	second := buildArchive(t, nobody, "umask 077", "TZ=Asia/Tokyo", "USER=nobody", "HOME="+filepath.Join(t.TempDir(), "home"))
	if !bytes.Equal(first, second) {
		t.Errorf("two archives of %d and %d bytes differ", len(first), len(second))
	}
}

// buildArchive builds from a copy of the source and returns the archive.
func buildArchive(t *testing.T, uid uint32, umask string, env ...string) []byte {
	t.Helper()
	modules := oracle.Artifact(t, "modules")
	versions, err := os.ReadDir(filepath.Join(modules, "lib/modules"))
	if err != nil || len(versions) != 1 {
		t.Fatalf("build/modules has %v, %v; want one kernel's modules", versions, err)
	}
	dir, err := os.MkdirTemp("", "cocoroot-reproducible-") // not t.TempDir, whose parents are closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	oracle.Run(t, "cp", "-r", modules, filepath.Join(dir, "modules"))
	for _, name := range []string{"go.mod", "go.sum", "cmds", "initramfs", "unlock", "templates"} {
		oracle.Run(t, "cp", "-r", filepath.Join(oracle.Repository(t), name), dir)
	}
	env = append(env, "CGO_ENABLED=0", "GOEXPERIMENT=", "GOCACHE="+filepath.Join(dir, ".cache"),
		"GOMODCACHE="+strings.TrimSpace(oracle.Run(t, "go", "env", "GOMODCACHE")))
	script := func(uid uint32, text string) {
		t.Helper()
		cmd := exec.Command("sh", "-e", "-c", umask+"\n"+text)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
		if uid != 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", text, err, out)
		}
	}
	script(0, `go build -trimpath -buildvcs=false -o cocoroot ./cmds/cocoroot
		GOEXPERIMENT=runtimesecret go build -trimpath -buildvcs=false -gcflags=all=-l -ldflags='-s -w' -o init ./cmds/init`)
	if os.Getuid() != 0 {
		uid = 0
	} else if uid != 0 {
		oracle.Run(t, "chown", "-R", "--no-dereference", "65534:65534", dir)
	}
	script(uid, "./cocoroot initrd -o initrd.img --modules modules --kver "+versions[0].Name())
	archived, err := os.ReadFile(filepath.Join(dir, "initrd.img"))
	if err != nil {
		t.Fatal(err)
	}
	return archived
}

// TestDebugInitrdIsReproducible has u-root's builder at work twice, in two
// folders and with two umasks, and compares the debug archives that come of it
// with the one that build.sh made.
func TestDebugInitrdIsReproducible(t *testing.T) {
	module := strings.TrimSpace(oracle.Run(t, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/u-root/u-root"))
	elsewhere := filepath.Join(t.TempDir(), "another folder")
	oracle.Run(t, "cp", "-r", "--no-preserve=mode", module, elsewhere)
	want, err := os.ReadFile(oracle.Artifact(t, "debug.img"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ umask, module string }{{"022", module}, {"077", elsewhere}} {
		if got := debugArchive(t, tc.umask, tc.module); !bytes.Equal(got, want) {
			t.Errorf("umask %s, %s: the archive of %d bytes is not build.sh's of %d", tc.umask, tc.module, len(got), len(want))
		}
	}
}

// debugArchive builds u-root's commands as build.sh does, and the archive.
func debugArchive(t *testing.T, umask, module string) []byte {
	t.Helper()
	dir := t.TempDir()
	script := func(in, text string) {
		t.Helper()
		cmd := exec.Command("sh", "-e", "-c", "umask "+umask+"\n"+text)
		cmd.Dir = in
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOEXPERIMENT=", "GOFLAGS=-buildvcs=false", "GOWORK=off", "TMPDIR="+dir, "DIR="+dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", text, err, out)
		}
	}
	script(".", `go build -o "$DIR/u-root" github.com/u-root/u-root`)
	script(module, `"$DIR/u-root" -o "$DIR/commands.cpio" -initcmd= -defaultsh= -go-build-tags=goshsmall ./cmds/core/*`)
	out := filepath.Join(dir, "debug.img")
	code, _, stderr := call(t, "initrd", "--debug", "-o", out, "--init", oracle.Artifact(t, "debuginit"),
		"--commands", filepath.Join(dir, "commands.cpio"), "--modules", oracle.Artifact(t, "modules"))
	if code != fault.OK {
		t.Fatalf("cocoroot initrd --debug: %s", stderr)
	}
	if !strings.Contains(stderr, "a DEBUG archive gives a shell") {
		t.Errorf("stderr = %q; want a warning", stderr)
	}
	archived, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return archived
}
