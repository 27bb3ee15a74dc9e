package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cocoroot/initramfs/oracle"
)

// TestSilentInputs: a verb that waits for a pipe to which nobody writes ends
// with the first interrupt, at once with the second, and leaves nothing.
func TestSilentInputs(t *testing.T) {
	tool, root := oracle.Artifact(t, "cocoroot"), aRoot(t)
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"initrd":  {"initrd", "-o", "out", "--init", pipe},
		"seal":    {"seal", root, "-o", "out", "--key-file", pipe},
		"measure": {"measure", "--mode", "sev", "--firmware", pipe},
		"secret":  {"secret", "build", "-o", "out", "736869e5-84f0-4973-92ec-06879ce3da0b=" + pipe},
		"verify":  {"verify", "image", "--manifest", pipe},
	} {
		for _, interrupts := range []int{1, 2} {
			t.Run(fmt.Sprint(name, interrupts), func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				cmd := exec.Command(tool, args...)
				cmd.Dir = dir
				var stderr bytes.Buffer
				cmd.Stderr = &stderr
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				kill := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() })
				for name == "seal" && names(t, dir) == "" {
					time.Sleep(10 * time.Millisecond)
				}
				time.Sleep(time.Second)
				for range interrupts {
					if err := cmd.Process.Signal(os.Interrupt); err != nil {
						t.Fatal(err)
					}
					time.Sleep(100 * time.Millisecond) // two in one moment would be one
				}
				err := cmd.Wait()
				if killed := !kill.Stop(); killed || err == nil || !strings.Contains(stderr.String(), "interrupted") {
					t.Errorf("%v, killed %v, said %q; want an end", err, killed, stderr.String())
				}
				if left := names(t, dir); left != "" {
					t.Errorf("left %s", left)
				}
			})
		}
	}
}
