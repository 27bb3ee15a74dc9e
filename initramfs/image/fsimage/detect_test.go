package fsimage

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"cocoroot/initramfs/oracle"
	"cocoroot/unlock/policy"
)

// emptyExt4 returns an ext4 without files, made with further arguments.
func emptyExt4(t testing.TB, args ...string) []byte {
	t.Helper()
	path := image(t, "", "mke2fs", append(append([]string{"-q", "-F"}, args...), "OUT", "8M")...)
	return readFile(t, path)
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDetect(t *testing.T) {
	dir := t.TempDir()
	for _, tc := range []struct {
		name   string
		kind   policy.FSType
		data   []byte
		length int64
	}{
		{"ext2", policy.Ext4, emptyExt4(t, "-t", "ext2", "-b", "1024"), 8 << 20},
		{"ext4", policy.Ext4, emptyExt4(t, "-t", "ext4", "-b", "4096"), 8 << 20},
		{"erofs", policy.EROFS, readFile(t, image(t, dir, "mkfs.erofs", "OUT", dir)), 4096},
		{"squashfs", policy.Squashfs, readFile(t, image(t, dir, "mksquashfs", "DIR", "OUT", "-quiet", "-no-progress")), 0},
	} {
		kind, length, err := Detect(bytes.NewReader(append(tc.data, 1, 2, 3)))
		if err != nil || kind != tc.kind || tc.length != 0 && length != tc.length || length > int64(len(tc.data)) {
			t.Errorf("%s: Detect = %s, %d, %v; want %s, %d", tc.name, kind, length, err, tc.kind, tc.length)
		}
	}
}

func TestDetectRefuses(t *testing.T) {
	recover := emptyExt4(t, "-t", "ext4", "-b", "1024", "-O", "^metadata_csum")
	recover[secondSuper+0x60] |= ext4Recover
	orphans := emptyExt4(t, "-t", "ext4", "-O", "^metadata_csum")
	orphans[secondSuper+0x66] |= 1
	away := emptyExt4(t, "-t", "ext4", "-O", "^metadata_csum")
	clear(away[secondSuper+0xe0 : secondSuper+0xe4])
	dir := t.TempDir()
	squash := readFile(t, image(t, dir, "mksquashfs", "DIR", "OUT", "-quiet", "-no-progress"))
	old := bytes.Clone(squash)
	old[28] = 3
	lzo := readFile(t, image(t, dir, "mksquashfs", "DIR", "OUT", "-quiet", "-no-progress", "-comp", "lzo"))
	for _, tc := range []struct {
		name string
		data []byte
		want error
	}{
		{"nothing", nil, ErrUnknown},
		{"text", bytes.Repeat([]byte("text "), 1000), ErrUnknown},
		{"ext4 not unmounted", recover, ErrRecovery},
		{"ext4 with orphans", orphans, ErrRecovery},
		{"ext4's journal elsewhere", away, errFeature},
		{"an external journal", emptyExt4(t, "-O", "journal_dev", "-b", "4096"), errFeature},
		{"ext4 with inline data", emptyExt4(t, "-t", "ext4", "-O", "inline_data"), errFeature},
		{"ext4 with encryption", emptyExt4(t, "-t", "ext4", "-O", "encrypt"), errFeature},
		{"squashfs 3", old, errFeature},
		{"squashfs lzo", lzo, errFeature},
		{"squashfs cut in its superblock", squash[:40], ErrCorrupt},
	} {
		if kind, length, err := Detect(bytes.NewReader(tc.data)); !errors.Is(err, tc.want) {
			t.Errorf("%s: Detect = %s, %d, %v; want %v", tc.name, kind, length, err, tc.want)
		}
	}
	gone := errors.New("the disk is gone")
	if _, _, err := Detect(failing{gone}); !errors.Is(err, gone) {
		t.Errorf("Detect of a failing disk: %v", err)
	}
}

type failing struct{ err error }

func (f failing) ReadAt([]byte, int64) (int, error) { return 0, f.err }

// What the tools say of an image, Detect says.
func TestDetectAgreesWithTools(t *testing.T) {
	path := image(t, "", "mke2fs", "-q", "-F", "-t", "ext4", "OUT", "16M")
	oracle.Run(t, oracle.Tool(t, "e2fsck"), "-fn", path)
	oracle.Run(t, oracle.Tool(t, "debugfs"), "-w", "-R", "feature needs_recovery", path)
	if _, _, err := Detect(bytes.NewReader(readFile(t, path))); !errors.Is(err, ErrRecovery) {
		t.Errorf("Detect = %v; want ErrRecovery", err)
	}
}
