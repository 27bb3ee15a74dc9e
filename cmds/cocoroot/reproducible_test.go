package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"cocoroot/unlock/oracle"
)

// TestInitrdIsReproducible builds init and archive twice from source: in two
// folders, with two caches, umasks and time zones, and, as root, for another
// user the second time.
func TestInitrdIsReproducible(t *testing.T) {
	modules := oracle.Artifact(t, "modules")
	versions, err := os.ReadDir(filepath.Join(modules, "lib/modules"))
	if err != nil || len(versions) != 1 {
		t.Fatalf("build/modules has %v, %v; want one kernel's modules", versions, err)
	}
	first := buildArchive(t, "umask 022; TZ=UTC", modules, versions[0].Name(), 0)
	second := buildArchive(t, "umask 077; TZ=Asia/Tokyo", modules, versions[0].Name(), 65534)
	if !bytes.Equal(first, second) {
		t.Errorf("two archives of %d and %d bytes differ", len(first), len(second))
	}
}

func buildArchive(t *testing.T, setting, modules, version string, uid uint32) []byte {
	t.Helper()
	dir, err := os.MkdirTemp("", "cocoroot-reproducible-") // not t.TempDir, whose parents are closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.CopyFS(filepath.Join(dir, "modules"), os.DirFS(modules)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"go.mod", "go.sum", "cmds", "initramfs", "unlock", "templates"} {
		if out, err := exec.Command("cp", "-r", "../../"+name, dir).CombinedOutput(); err != nil {
			t.Fatalf("cp: %v\n%s", err, out)
		}
	}
	script := setting + `; export TZ CGO_ENABLED=0 GOFLAGS=-buildvcs=false
		go build -trimpath -o cocoroot ./cmds/cocoroot
		GOEXPERIMENT=runtimesecret go build -trimpath -gcflags=all=-l -ldflags='-s -w' -o init ./cmds/init
		./cocoroot initrd -o initrd.img --modules modules --kver ` + version
	cmd := exec.Command("sh", "-e", "-c", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOCACHE="+filepath.Join(dir, ".cache"), "GOEXPERIMENT=")
	if uid != 0 && os.Getuid() == 0 {
		open(t, dir, int(uid))
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		cmd.Env = append(cmd.Env, "HOME="+dir, "GOPROXY=off", "GOMODCACHE="+moduleCache(t, dir, int(uid)))
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	archived, err := os.ReadFile(filepath.Join(dir, "initrd.img"))
	if err != nil {
		t.Fatal(err)
	}
	return archived
}

// open gives a folder to another user.
func open(t *testing.T, dir string, uid int) {
	t.Helper()
	if out, err := exec.Command("chown", "-R", "--no-dereference", "65534:65534", dir).CombinedOutput(); err != nil {
		t.Fatalf("chown to %d: %v\n%s", uid, err, out)
	}
}

// moduleCache copies the modules that the build needs to where the other
// user can read them.
func moduleCache(t *testing.T, dir string, uid int) string {
	t.Helper()
	own, err := exec.Command("go", "env", "GOMODCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	deps, err := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{.Dir}}{{end}}", "../...").Output()
	if err != nil {
		t.Fatal(err)
	}
	from, to := strings.TrimSpace(string(own)), filepath.Join(dir, "mod")
	copied := map[string]bool{"": true}
	for line := range strings.Lines(string(deps)) {
		src := strings.TrimSpace(line)
		if !strings.HasPrefix(src, from+"/") || copied[src] {
			continue
		}
		copied[src] = true
		dst := to + strings.TrimPrefix(src, from)
		if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("cp", "-r", src, dst).CombinedOutput(); err != nil {
			t.Fatalf("cp: %v\n%s", err, out)
		}
	}
	if out, err := exec.Command("cp", "-r", from+"/cache", to).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v\n%s", err, out)
	}
	open(t, to, uid)
	t.Cleanup(func() { exec.Command("chmod", "-R", "u+w", to).Run() })
	return to
}
