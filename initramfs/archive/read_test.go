package archive

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/u-root/u-root/pkg/cpio"

	"cocoroot/unlock/modules"
)

func gzipped(t testing.TB, plain io.Reader) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := io.Copy(z, plain); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestListOfWrite(t *testing.T) {
	archived := build(t, Contents{
		Init:    builtInit(t, "runtimesecret", initPath),
		Modules: []Module{{modules.Entry{Path: "/lib/modules/6.12/a.ko", Optional: true}, []byte("module")}},
	})
	l, err := List(bytes.NewReader(archived))
	if err != nil || len(l.Problems) != 0 || len(l.Foreign) != 0 {
		t.Fatalf("List = %v, problems %v, foreign %v; want none", err, l.Problems, l.Foreign)
	}
	if l.Compression != "zstd" || l.Debug || l.Init.Package != initPath || !l.Init.RuntimeSecret {
		t.Errorf("List = %+v", l)
	}
	if len(l.Modules) != 1 || !l.Modules[0].Optional || len(l.Members) != 11 {
		t.Errorf("modules %+v, %d members; want one optional module, 11 members", l.Modules, len(l.Members))
	}
	for cut := len(archived) - 1; cut > 0; cut -= len(archived)/7 + 1 {
		if l, err := List(bytes.NewReader(archived[:cut])); err == nil && len(l.Problems) == 0 {
			t.Errorf("cut to %d of %d bytes: no error, no problem", cut, len(archived))
		}
	}
	l, err = List(io.MultiReader(bytes.NewReader(archived), bytes.NewReader(archived)))
	if err != nil || len(l.Problems) != 1 {
		t.Errorf("two archives in a row: %v, %v; want one problem", err, l.Problems)
	}
}

func TestListOfDebug(t *testing.T) {
	init := builtInit(t, "runtimesecret", debugPath)
	shell := pack(t, cpio.StaticFile("bbin/bb", string(init), 0o755), cpio.Symlink("bbin/gosh", "bb"))
	l, err := List(bytes.NewReader(build(t, Contents{Init: init, Commands: shell})))
	if err != nil || !l.Debug || len(l.Problems) != 0 {
		t.Errorf("List = %v, debug %v, problems %v; want a debug archive without problems", err, l.Debug, l.Problems)
	}
	// The ordinary init with a shell beside it, which Write refuses.
	ordinary := string(builtInit(t, "runtimesecret", initPath))
	l, err = List(bytes.NewReader(pack(t, cpio.StaticFile("init", ordinary, 0o755), cpio.Symlink("bbin/gosh", "bb"))))
	if err != nil || !l.Debug || len(l.Problems) != 1 || !errors.Is(l.Problems[0], ErrInit) {
		t.Errorf("List = %v, debug %v, problems %v; want a debug archive with the wrong init", err, l.Debug, l.Problems)
	}
}

func TestListProblems(t *testing.T) {
	// Without contents, so that init is the only other problem.
	init := cpio.StaticFile("init", "#!/bin/sh\n", 0o755)
	for name, tc := range map[string]struct {
		records []cpio.Record
		says    string
	}{
		"no init":        {[]cpio.Record{cpio.Directory("dev", 0o755)}, "no init"},
		"a script":       {[]cpio.Record{init}, "not an init that this archive may carry"},
		"list is junk":   {[]cpio.Record{init, cpio.StaticFile("etc/cocoroot/modules", "/etc/passwd\n", 0o644)}, "module list is malformed"},
		"module is lost": {[]cpio.Record{init, cpio.StaticFile("etc/cocoroot/modules", "/lib/modules/a.ko\n", 0o644)}, "not there"},
		"false reports":  {[]cpio.Record{init, cpio.StaticFile("lib/modules/x.ko", fake, 0o644)}, "lib/modules/x.ko\": it is fake_tsm"},
		"name twice":     {[]cpio.Record{init, cpio.StaticFile("x", "", 0o644), cpio.StaticFile("Y", "", 0o644)}, "appears twice"},
	} {
		packed := bytes.ReplaceAll(pack(t, tc.records...), []byte("Y"), []byte("x")) // a writer of cpio drops the second
		l, err := List(bytes.NewReader(gzipped(t, bytes.NewReader(packed))))
		if err != nil || l.Compression != "gzip" {
			t.Errorf("%s: List = %v, %s", name, err, l.Compression)
		}
		if text := errors.Join(l.Problems...); text == nil || !strings.Contains(text.Error(), tc.says) {
			t.Errorf("%s: problems = %v; want %q", name, l.Problems, tc.says)
		}
	}
}

// Members that would make the kernel write over others, or that no init of
// ours has beside it, are not taken for ours.
func TestListForeign(t *testing.T) {
	init := cpio.StaticFile("init", string(builtInit(t, "runtimesecret", initPath)), 0o755)
	linked := cpio.StaticFile("lib/modules/a.ko", "another init", 0o644)
	linked.Ino, linked.NLink = 7, 2 // with an init of this number it would be one file
	for name, r := range map[string]cpio.Record{
		"a folder that is a link": cpio.Symlink("lib/modules", "/"),
		"a module that is a link": cpio.Symlink("lib/modules/a.ko", "/init"),
		"a hard link":             linked,
		"init as a link":          cpio.Symlink("init", "lib/modules/a.ko"),
		"a device for a module":   cpio.CharDev("lib/modules/a.ko", 0o600, 1, 1),
		"a way through a link":    cpio.StaticFile("bbin/a/init", "", 0o755),
		"a command":               cpio.StaticFile("bbin/sh", "", 0o755),
	} {
		records := []cpio.Record{init, r}
		if r.Name == "init" {
			records = records[1:]
		}
		l, err := List(bytes.NewReader(pack(t, records...)))
		if err != nil || !slices.Equal(l.Foreign, []string{r.Name}) {
			t.Errorf("%s: List = %v, foreign %q; want %q", name, err, l.Foreign, r.Name)
		}
	}
}

// What is hostile ends in an error, and in little memory.
func TestListIsBounded(t *testing.T) {
	record := string(pack(t, cpio.StaticFile("x", "", 0o644)))
	zeros := io.LimitReader(zeroReader{}, 128<<20)
	for name, file := range map[string]io.Reader{
		"nothing":     strings.NewReader(""),
		"a long name": strings.NewReader(record[:nameLength] + "ffffffff" + record[nameLength+8:]),
		"a long init": strings.NewReader(strings.Replace(string(pack(t, cpio.StaticFile("init", "x", 0o755))), "00000001", "7fffffff", 8)),
		"a bomb": bytes.NewReader(gzipped(t, io.MultiReader(
			strings.NewReader(record[:54]+"ffffffff"+record[62:116]), zeros))),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := List(file)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, errArchive) {
			t.Errorf("%s: List error = %v; want errArchive", name, err)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 70<<20 {
			t.Errorf("%s: %d bytes allocated", name, n)
		}
	}
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// listSeeds are archives that reach each part.
func listSeeds(t testing.TB) [][]byte {
	var plain bytes.Buffer
	w := cpio.Newc.Writer(&plain)
	for _, r := range []cpio.Record{
		cpio.StaticFile("init", "\x7fELF", 0o755), cpio.StaticFile("etc/cocoroot/modules", "/lib/modules/a.ko\n", 0o644), cpio.Symlink("bbin/gosh", "bb"),
	} {
		if err := w.WriteRecord(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := cpio.WriteTrailer(w); err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	if err := compress(&packed, plain.Bytes()); err != nil {
		t.Fatal(err)
	}
	return [][]byte{plain.Bytes(), packed.Bytes(), gzipped(t, bytes.NewReader(plain.Bytes())), plain.Bytes()[:200]}
}

func FuzzList(f *testing.F) {
	for _, s := range listSeeds(f) {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := List(bytes.NewReader(b))
		if err != nil && !errors.Is(err, errArchive) {
			t.Errorf("List error = %v; want errArchive", err)
		}
		if err == nil && (l.Init == nil || l.Init.Package == "") && len(l.Problems) == 0 {
			t.Error("an archive without our init has no problem")
		}
	})
}

// TestFuzzListSeeds checks that the seeds reach the list of modules, and errors.
func TestFuzzListSeeds(t *testing.T) {
	var lists, errs int
	for _, s := range listSeeds(t) {
		l, err := List(bytes.NewReader(s))
		if err != nil {
			errs++
		} else if len(l.Modules) == 1 && l.Debug {
			lists++
		}
	}
	if lists != 3 || errs != 1 {
		t.Errorf("the seeds give %d lists and %d errors; want 3 and 1", lists, errs)
	}
}
