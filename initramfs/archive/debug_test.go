package archive

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"
)

const debugPath = "cocoroot/cmds/debuginit"

// pack writes an uncompressed archive.
func pack(t *testing.T, records ...cpio.Record) []byte {
	t.Helper()
	var b bytes.Buffer
	w := cpio.Newc.Writer(&b)
	if err := cpio.WriteRecords(w, records); err != nil {
		t.Fatal(err)
	}
	if err := cpio.WriteTrailer(w); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// members returns the members of a compressed archive, in order.
func members(t *testing.T, archived []byte) []cpio.Record {
	t.Helper()
	dec, err := zstd.NewReader(bytes.NewReader(archived))
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	plain, err := io.ReadAll(dec)
	if err != nil {
		t.Fatal(err)
	}
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(plain)))
	if err != nil {
		t.Fatal(err)
	}
	return records
}

// names returns the names of members.
func names(records []cpio.Record) string {
	var out []string
	for _, r := range records {
		out = append(out, r.Name)
	}
	return strings.Join(out, " ")
}

// What u-root's archive has besides its commands stays out, and its modes, as
// another umask would make them, change nothing.
func TestDebugArchive(t *testing.T) {
	program := string(builtInit(t, "runtimesecret", debugPath)) // any static program
	c := Contents{Init: []byte(program)}
	c.Commands = pack(t,
		cpio.StaticFile("init", "another init", 0o755), cpio.CharDev("dev/tty0", 0o666, 4, 0), cpio.Directory("bbin", 0o755),
		cpio.StaticFile("bbin/bb", program, 0o755), cpio.Symlink("bbin/gosh", "bb"), cpio.Symlink("bbin/ls", "bb"))
	archived := build(t, c)
	want := "bbin bbin/bb bbin/gosh bbin/ls dev dev/console dev/null etc etc/cocoroot etc/cocoroot/modules init"
	if got := names(members(t, archived)); got != want {
		t.Errorf("members = %s\nwant      %s", got, want)
	}
	c.Commands = pack(t, cpio.Directory("bbin", 0o700),
		cpio.Symlink("bbin/ls", "bb"), cpio.Symlink("bbin/gosh", "bb"), cpio.StaticFile("bbin/bb", program, 0o700))
	if !bytes.Equal(archived, build(t, c)) {
		t.Error("another umask and order of u-root's archive give other bytes")
	}
}

// A shell and the init that opens images do not meet in one archive.
func TestShellAndInitAreApart(t *testing.T) {
	debug, ordinary := builtInit(t, "runtimesecret", debugPath), builtInit(t, "runtimesecret", initPath)
	shell := pack(t, cpio.StaticFile("bbin/bb", string(debug), 0o755), cpio.Symlink("bbin/gosh", "bb"))
	for name, c := range map[string]Contents{
		"ordinary init with a shell":        {Init: ordinary, Commands: shell},
		"debug init in an ordinary archive": {Init: debug},
	} {
		if err := Write(io.Discard, c); !errors.Is(err, ErrInit) {
			t.Errorf("%s: Write error = %v; want ErrInit", name, err)
		}
	}
}

func TestCommandsAreChecked(t *testing.T) {
	init := builtInit(t, "runtimesecret", debugPath)
	program := cpio.StaticFile("bbin/bb", string(init), 0o755)
	shell := cpio.Symlink("bbin/gosh", "bb")
	whole := pack(t, program, shell)
	for name, file := range map[string][]byte{
		"empty":               {},
		"junk":                []byte(strings.Repeat("junk", 100)),
		"cut short":           whole[:len(whole)/2],
		"without shell":       pack(t, program, cpio.Symlink("bbin/ls", "bb")),
		"without program":     pack(t, shell),
		"program is a script": pack(t, cpio.StaticFile("bbin/bb", "#!/bin/sh\n", 0o755), shell),
		"link elsewhere":      pack(t, program, shell, cpio.Symlink("bbin/ls", "/etc/passwd")),
		"another file":        pack(t, program, shell, cpio.StaticFile("bbin/ls", "x", 0o755)),
	} {
		if err := Write(io.Discard, Contents{Init: init, Commands: file}); !errors.Is(err, errCommands) {
			t.Errorf("%s: Write error = %v; want errCommands", name, err)
		}
	}
}
