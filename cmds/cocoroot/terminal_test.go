package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"cocoroot/initramfs/oracle"
)

// hostile is what a terminal would act on: a title, a cleared screen, an answer, the 8-bit
// form of an escape, letters from right to left; and a line that is not the tool's.
const hostile = "x\x1b]0;title\x07\x1b[2J\x1b[6n\u009b31m\u202e\r\ncocoroot: hint: run this"

// What others have made is full of such text: a container image, a tar, and files that
// a host gives back. None of it reaches the terminal as it is.
func TestTerminal(t *testing.T) {
	m := newMakings(t)
	run := oracle.Artifact(t, "run")
	image := func(config map[string]any) []string {
		return []string{"seal", aContainer(t, config), "-o", filepath.Join(t.TempDir(), "image"), "--run", run}
	}
	list := func(s string) map[string]any { return map[string]any{s: struct{}{}} }
	refusal := func(id uint64) string {
		return fmt.Sprintf(`{"id":%d,"error":{"class":%[2]s,"desc":%[2]s}}`+"\n", id, jsonText(hostile))
	}
	qmp := (&fakeQEMU{Answer: map[string]func(uint64) string{"query-sev": refusal}}).Serve(t)
	cases := map[string][]string{
		"QEMU":       {"release", "collect", "--qmp", qmp, "-o", m.path("report")},
		"user":       image(map[string]any{"Entrypoint": []string{"/app"}, "User": hostile}),
		"group":      image(map[string]any{"Entrypoint": []string{"/app"}, "User": "0:" + hostile}),
		"signal":     image(map[string]any{"Entrypoint": []string{"/app"}, "StopSignal": hostile}),
		"port":       image(map[string]any{"Entrypoint": []string{"/app"}, "ExposedPorts": list(hostile)}),
		"volume":     image(map[string]any{"Entrypoint": []string{"/app"}, "Volumes": list("/app/" + hostile)}),
		"folder":     image(map[string]any{"Entrypoint": []string{"/app"}, "WorkingDir": "/dev/" + hostile}),
		"program":    image(map[string]any{"Entrypoint": []string{hostile}}),
		"path":       image(map[string]any{"Entrypoint": []string{"/" + hostile}}),
		"variable":   image(map[string]any{"Entrypoint": []string{"/app"}, "Env": []string{hostile}}),
		"type":       image(map[string]any{"Entrypoint": hostile}),
		"settings":   {"create", m.root, "-o", m.path("vm"), "--settings", put(t, m.path("settings"), "\"x\\u001b[2J\\nkey\" = 1\n")},
		"toml":       {"create", m.root, "-o", m.path("vm"), "--settings", put(t, m.path("toml"), "x = "+hostile)},
		"no guest":   {"launch", put(t, m.path(strings.ReplaceAll(hostile, "/", "")), ""), "--simulate"},
		"cmdline":    {"inspect", put(t, m.path("cmdline"), "console=ttyS0 cocoroot.disk="+hostile)},
		"an archive": {"inspect", put(t, m.path("cpio"), "070701"+strings.Repeat("0", 88)+"00000010"+"00000000"+hostile[:15]+"\x00")},
		"modules":    {"inspect", put(t, m.path("modules.cpio"), newc("etc/cocoroot/modules", "/lib/modules/"+strings.ReplaceAll(hostile, "\n", "")+".ko\n")+newc("TRAILER!!!", ""))},
		"a record":   {"launch", folderWith(t, "vm.json", `{"version":1,"vcpus":[1],"memory_mib":1,"files":{},"disks":[{"name":`+jsonText(hostile)+`,"size":0}]}`), "--simulate"},
		"a field":    {"launch", folderWith(t, "vm.json", `{`+jsonText(hostile)+`:1}`), "--simulate"},
		"a mode":     {"launch", folderWith(t, "vm.json", `{"version":1,"vcpus":[1],"memory_mib":1,"files":{},"modes":[`+jsonText(hostile)+`]}`), "--mode", "sev"},
		"a report":   {"inspect", put(t, m.path("report"), `{"api_major":1,`+jsonText(hostile)+`:1}`)},
		"a manifest": {"inspect", put(t, m.path("manifest"), `{"version":1,"luks_uuid":`+jsonText(hostile)+`}`)},
	}
	for _, kind := range []byte{tar.TypeReg, tar.TypeLink, tar.TypeSymlink, tar.TypeChar, 'Z'} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		h := &tar.Header{Typeflag: kind, Name: hostile, Linkname: hostile, Devmajor: 1 << 20, Format: tar.FormatPAX, PAXRecords: map[string]string{"SCHILY.xattr.user." + "x": hostile}}
		if err := w.WriteHeader(h); err != nil {
			h.PAXRecords = nil
			if err := w.WriteHeader(h); err != nil {
				t.Fatal(err)
			}
		}
		w.Close()
		name := "tar " + string(kind)
		cases[name] = []string{"seal", put(t, m.path(name), b.String()), "-o", filepath.Join(t.TempDir(), "image")}
	}
	for name, args := range cases {
		code, stdout, stderr := call(t, args...)
		for line := range strings.Lines(stdout + stderr) {
			bad := strings.ContainsFunc(strings.TrimSuffix(line, "\n"), func(r rune) bool { return r != '\t' && !unicode.IsPrint(r) })
			if bad || strings.HasPrefix(line, "cocoroot: hint: run this") {
				t.Errorf("%s: %d, %q", name, code, line)
			}
		}
	}
}

// newc returns a file of an archive for the kernel.
func newc(name, text string) string {
	h := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x", 1, 0o100644, 0, 0, 1, 0, len(text)) + strings.Repeat("0", 32) + fmt.Sprintf("%08x%08x", len(name)+1, 0) + name + "\x00"
	pad := func(s string) string { return s + strings.Repeat("\x00", -len(s)&3) }
	return pad(h) + pad(text)
}

func jsonText(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// folderWith makes a folder with one file.
func folderWith(t *testing.T, name, text string) string {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}
