package archive

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/u-root/u-root/pkg/cpio"

	"cocoroot/unlock/modules"
)

// builtInit builds the guest's init as build.sh does, with the package's
// path and the runtimesecret experiment in its build information.
func builtInit(t *testing.T, experiment string, args ...string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "init")
	cmd := exec.Command("go", append([]string{"build", "-trimpath", "-o", out}, args...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOEXPERIMENT="+experiment, "GOFLAGS=-buildvcs=false")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, text)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

const initPath = "cocoroot/cmds/init"

func build(t *testing.T, c Contents) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, c); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestArchiveMembers(t *testing.T) {
	c := Contents{
		Init: builtInit(t, "runtimesecret", initPath),
		Modules: []Module{
			{modules.Entry{Path: "/lib/modules/6.12/kernel/z.ko"}, []byte("z")},
			{modules.Entry{Path: "/lib/modules/6.12/kernel/a.ko", Optional: true}, []byte("a")},
		},
	}
	archived := build(t, c)
	if !bytes.Equal(archived, build(t, c)) {
		t.Error("two builds of the same contents differ")
	}
	records := members(t, archived)
	for _, r := range records {
		if r.UID != 0 || r.GID != 0 || r.MTime != 0 || r.Mode&0o022 != 0 && r.Name != "dev/null" {
			t.Errorf("%v; want owner 0:0, time 0, not writable by others", r.Info)
		}
		if r.Name == "etc/cocoroot/modules" {
			text, _ := io.ReadAll(io.NewSectionReader(r, 0, int64(r.FileSize)))
			if want := "/lib/modules/6.12/kernel/z.ko\n-/lib/modules/6.12/kernel/a.ko\n"; string(text) != want {
				t.Errorf("module list = %q; want the load order %q", text, want)
			}
		}
	}
	want := "dev dev/console dev/null etc etc/cocoroot etc/cocoroot/modules init lib lib/modules " +
		"lib/modules/6.12 lib/modules/6.12/kernel lib/modules/6.12/kernel/a.ko lib/modules/6.12/kernel/z.ko"
	if got := names(records); got != want {
		t.Errorf("members = %s\nwant      %s", got, want)
	}
}

func TestDuplicateNameIsRefused(t *testing.T) {
	good := builtInit(t, "runtimesecret", initPath)
	m := Module{Entry: modules.Entry{Path: "/lib/modules/a.ko"}}
	if err := Write(io.Discard, Contents{Init: good, Modules: []Module{m, m}}); err == nil {
		t.Error("Write with one module twice succeeded")
	}
	// A module may not stand where a folder stands.
	nested := []Module{m, {Entry: modules.Entry{Path: "/lib/modules/a.ko/b.ko"}}}
	if err := Write(io.Discard, Contents{Init: good, Modules: nested}); !errors.Is(err, ErrDuplicate) {
		t.Errorf("Write error = %v; want ErrDuplicate", err)
	}
}

// fake is what shows the provider of false reports, in the module's own words.
const fake = "\x7fELF license=Dual BSD/GPL\x00name=fake_tsm\x00vermagic=6.12"

// What tests load is in no archive, under no name, and with no shell beside it.
func TestFakeIsRefused(t *testing.T) {
	m := []Module{{modules.Entry{Path: "/lib/modules/6.12/sev-guest.ko"}, []byte(fake)}}
	debug := builtInit(t, "runtimesecret", debugPath)
	shell := pack(t, cpio.StaticFile("bbin/bb", string(debug), 0o755), cpio.Symlink("bbin/gosh", "bb"))
	for name, c := range map[string]Contents{
		"ordinary": {Init: builtInit(t, "runtimesecret", initPath), Modules: m},
		"debug":    {Init: debug, Modules: m, Commands: shell},
	} {
		if err := Write(io.Discard, c); !errors.Is(err, ErrFake) {
			t.Errorf("%s: Write error = %v; want ErrFake", name, err)
		}
	}
}

func TestInitIsChecked(t *testing.T) {
	for name, data := range map[string][]byte{
		"empty":            nil,
		"a script":         []byte("#!/bin/sh\n"),
		"no clearing":      builtInit(t, "none", initPath),
		"another program":  builtInit(t, "runtimesecret", "cocoroot/cmds/cocoroot"),
		"needs the loader": builtInit(t, "runtimesecret", "-buildmode=pie", "-ldflags=-linkmode=internal", initPath),
	} {
		if err := Write(io.Discard, Contents{Init: data}); !errors.Is(err, ErrInit) {
			t.Errorf("%s: Write error = %v; want ErrInit", name, err)
		}
	}
}
