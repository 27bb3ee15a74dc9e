package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/oracle"
)

// "-" is standard input for seal's root, and refused everywhere else, not taken
// for a file of this name.
func TestDash(t *testing.T) {
	t.Chdir(t.TempDir())
	put(t, "-", secretKey)
	for _, args := range []string{
		"inspect -", "verify - --manifest x", "verify x --manifest -", "verify x --cmdline-file - ", "verify x --manifest y --key-file -",
		"initrd -o -", "initrd -o x --init -", "seal x -o -", "seal x -o y --key-file -", "seal x -o y --key-out -", "seal - -o y --passphrase-file -",
		"secret build " + guid + "=- -o x", "secret build " + guid + "=x -o -", "secret inspect -", "secret session - -o x",
		"measure --mode sev --firmware -", "measure --mode sev --firmware x --kernel -", "template qemu-sev -o -", "release inject - --qmp x",
		"release collect --qmp x -o -", "launch --simulate --firmware x --kernel x --initrd x --cmdline-file x --disk -",
		"launch --simulate --firmware x --kernel x --initrd x --cmdline-file x --disk x --secret " + guid + "=-",
	} {
		code, out, stderr := call(t, strings.Fields(args)...)
		if code != fault.Usage || out != "" || !strings.Contains(stderr, `"-" is none`) {
			t.Errorf("%s = %d, %q, %q; want a refusal", args, code, out, stderr)
		}
	}
	if got := names(t, "."); got != "-" {
		t.Errorf("the folder has %s", got)
	}
	if code, out, stderr := call(t, "inspect", "./-"); code != fault.OK || !strings.Contains(out, "SECRET") {
		t.Errorf("inspect ./- = %d, %q, %q", code, out, stderr)
	}
}

// inspect knows the files that the tool makes, and shows no key.
func TestInspectKeys(t *testing.T) {
	checkInspect(t, map[string]inspected{
		"key":               {secretKey, "key", fault.OK, "SECRET"},
		"with a newline":    {secretKey + "\n", "", fault.Failed, "none of the files"},
		"64 other letters":  {strings.Repeat("z", 64), "", fault.Failed, "none of the files"},
		"transport key":     {secretKey[:16], "transport_key", fault.OK, "SECRET"},
		"15 bytes":          {secretKey[:15], "", fault.Failed, "none of the files"},
		"owner certificate": {string(ownerCertificate(t)), "sev_certificates", fault.OK, "certificates: PDH"},
	})
	path := put(t, filepath.Join(t.TempDir(), "key"), secretKey)
	for _, args := range [][]string{{"inspect", path}, {"inspect", path, "--json"}, {"inspect", path, "--show-secrets"}} {
		if _, out, stderr := call(t, args...); strings.Contains(out+stderr, secretKey[:8]) {
			t.Errorf("%q shows the key: %q", args, out+stderr)
		}
	}
}

// The commands that inspect prints for an image are taken by the stock tools,
// and say of a changed image that it is.
func TestInspectPrintsCommands(t *testing.T) {
	oracle.Tool(t, "veritysetup")
	oracle.Tool(t, "cryptsetup")
	dir := filepath.Join(t.TempDir(), "it's here")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(dir, "image")
	if code, _, stderr := call(t, "seal", aRoot(t), "-o", image, "--allow", "no-init"); code != fault.OK {
		t.Fatal(stderr)
	}
	run := func(prefix string) error {
		t.Helper()
		_, out, _ := call(t, "inspect", image)
		for line := range strings.Lines(out) {
			command, ok := strings.CutPrefix(line, "commands: "+prefix)
			if !ok {
				continue
			}
			cmd := exec.Command("sh", "-c", prefix+command)
			cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("%s: %w\n%s", line, err, out)
			}
			return nil
		}
		t.Fatalf("inspect prints no %s: %s", prefix, out)
		return nil
	}
	if err := run("veritysetup verify "); err != nil {
		t.Error(err)
	}
	if err := run("cryptsetup open --test-passphrase "); err != nil {
		t.Error(err)
	}
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	b[1<<20] ^= 1
	put(t, image, string(b))
	if run("veritysetup verify ") == nil {
		t.Error("veritysetup takes a changed image")
	}
}

// With --json there is an event a second from beginning to end, also while a
// step says nothing.
func TestProgressEvents(t *testing.T) {
	var stderr bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		p := (&app{stderr: &stderr, json: true}).newProgress()
		p.Begins("making the file system")
		time.Sleep(2500 * time.Millisecond)
		p.At(3<<20, 0)
		p.Warn("%d words", 2)
		p.end()
		p.end()
	})
	said := stderr.String()
	events := 0
	for line := range strings.Lines(said) {
		var e event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Errorf("%q: %v", line, err)
		}
		if e.Event == "progress" && e.Step == "making the file system" {
			events++
		}
	}
	if events < 3 || events > 4 || !strings.Contains(said, `"text":"2 words"`) {
		t.Errorf("%d events in 2.5 s:\n%s", events, said)
	}
	for e, want := range map[event]string{
		{Step: "making"}:                                        "making",
		{Step: "making", spent: 3 * time.Second}:                "making: 3s",
		{Step: "making", Done: 5 << 20, spent: 3 * time.Second}: "making: 5 MiB, 3s",
	} {
		if got := e.String(); got != want {
			t.Errorf("%+v shows as %q; want %q", e, got, want)
		}
	}
}

// A slow maker of a file system is heard of while it works.
func TestSealTellsOfTheSlowStep(t *testing.T) {
	real := oracle.Tool(t, "mksquashfs")
	dir := t.TempDir()
	slow := put(t, filepath.Join(dir, "mksquashfs"), "#!/bin/sh\nsleep 2.3\nexec "+real+" \"$@\"\n")
	if err := os.Chmod(slow, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	code, _, stderr := call(t, "seal", aRoot(t), "-o", filepath.Join(dir, "image"), "--allow", "no-init", "--json")
	if n := strings.Count(stderr, `"step":"making the file system"`); code != fault.OK || n < 3 {
		t.Errorf("seal = %d, with %d events of the slow step:\n%s", code, n, stderr)
	}
}
