package snptest

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/u-root/u-root/pkg/cpio"

	"cocoroot/initramfs/files"
	"cocoroot/unlock/modules"
)

// Archive returns the path of a copy of an initrd, uncompressed, in which init
// loads the module fake_tsm after all others. The package archive refuses to
// make such a one.
func Archive(t testing.TB, initrd, module string) string {
	t.Helper()
	packed := must(os.ReadFile(initrd))
	r, _, err := files.Decompress(bytes.NewReader(packed), 8<<20)
	must(0, err)
	defer r.Close()
	plain := must(io.ReadAll(r))
	records := must(cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(plain))))
	i := slices.IndexFunc(records, func(r cpio.Record) bool { return r.Name == modules.ListPath[1:] })
	list := must(io.ReadAll(io.NewSectionReader(records[i], 0, int64(records[i].FileSize))))
	const path = modules.Dir + "/fake_tsm.ko"
	records[i] = cpio.StaticFile(modules.ListPath[1:], string(list)+path+"\n", 0o644)
	return pack(t, append(records, cpio.StaticFile(path[1:], string(must(os.ReadFile(module))), 0o644)))
}

// pack writes an uncompressed archive and returns its path.
func pack(t testing.TB, records []cpio.Record) string {
	t.Helper()
	var b bytes.Buffer
	out := cpio.Newc.Writer(&b)
	must(0, cpio.WriteRecords(out, records))
	must(0, cpio.WriteTrailer(out))
	path := filepath.Join(t.TempDir(), "initrd.cpio")
	must(0, os.WriteFile(path, b.Bytes(), 0o644))
	return path
}
