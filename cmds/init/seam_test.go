package main_test

import (
	"os"
	"path/filepath"
	"testing"
)

// TestStateOverInit boots an image whose init is a link that leads below the state's
// folder, with a state in which an earlier image has left a program of that name.
func TestStateOverInit(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const program = "/data/bin/init"
	earlier := testRoot(t, filepath.Join(dir, "earlier"), "mkdir /data/bin && cp /sbin/init "+program+" && sync")
	now := testRoot(t, filepath.Join(dir, "now"), "echo the measured one")
	for _, root := range []string{earlier, now} {
		if err := os.Mkdir(filepath.Join(root, "data"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	disk := blankDisk(t, dir, stateSize)
	stateGuest(t, seal(t, filepath.Join(dir, "earlier"), earlier), disk, "create db\n").runs(t)

	if err := os.Mkdir(filepath.Join(now, "data/bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(now, "sbin/init"), filepath.Join(now, program)); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(".."+program, filepath.Join(now, "sbin/init")); err != nil {
		t.Fatal(err)
	}
	stateGuest(t, seal(t, filepath.Join(dir, "now"), now), disk, "").fails(t, "STATE-PATH")
}
