package main

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/image/cmdline"
	"cocoroot/initramfs/inspect"
	"cocoroot/initramfs/measure"
	"cocoroot/initramfs/oracle"
	"cocoroot/unlock/policy"
	"cocoroot/unlock/state"
)

// inspected is a file and what inspect has to say of it.
type inspected struct {
	data string
	kind string // "" for an unknown one
	code int
	says string // in the output or the error
}

// checkInspect runs inspect over files, as text and as JSON.
func checkInspect(t *testing.T, files map[string]inspected) {
	t.Helper()
	dir := t.TempDir()
	for name, f := range files {
		path := put(t, filepath.Join(dir, "file"), f.data)
		code, out, stderr := call(t, "inspect", path)
		if code != f.code || !strings.Contains(out+stderr, f.says) || f.says == "" {
			t.Errorf("%s: inspect = %d, %q, %q; want %d, %q", name, code, out, stderr, f.code, f.says)
		}
		if n := strings.Count(stderr, "cocoroot: error: "); n != min(f.code, 1) {
			t.Errorf("%s: %d error lines: %q", name, n, stderr)
		}
		if strings.Contains(out+stderr, passphrase) {
			t.Errorf("%s: the secret is in the output", name)
		}
		code, out, _ = call(t, "inspect", path, "--json")
		var r struct {
			Kind     string
			Size     int
			Problems []string
			Details  any
		}
		if f.kind == "" {
			if out != "" || code != fault.Failed {
				t.Errorf("%s: inspect --json = %d, %q; want nothing of an unknown file", name, code, out)
			}
			continue
		}
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if r.Kind != f.kind || r.Size != len(f.data) || (len(r.Problems) > 0) != (f.code != fault.OK) || code != f.code {
			t.Errorf("%s: inspect --json = %d, %+v; want kind %s, code %d, and problems only with the latter", name, code, r, f.kind, f.code)
		}
		if strings.Contains(out, passphrase) || strings.Contains(out, base64.StdEncoding.EncodeToString([]byte(passphrase))) {
			t.Errorf("%s: the secret is in the JSON", name)
		}
	}
}

func TestInspectFirmware(t *testing.T) {
	fd := string(oracle.Vector(t, "amdsev.fd"))
	plain := string(oracle.Vector(t, "ovmfx64.fd"))
	checkInspect(t, map[string]inspected{
		"AmdSev":           {fd, "firmware", fault.OK, "secret area: 3072 bytes"},
		"sections":         {fd, "firmware", fault.OK, "metadata sections: kernel_hashes"},
		"reset":            {fd, "firmware", fault.OK, "reset address: 0x"},
		"no room":          {plain, "firmware", fault.Failed, "no place for it"},
		"no pages":         {fd[5:], "firmware", fault.Failed, "whole pages"},
		"footer points on": {farFooter(fd), "firmware", fault.Failed, "the OVMF footer is damaged"},
		"no end":           {fd[:len(fd)-1], "", fault.Failed, "none of the files"},
	})
}

// farFooter gives a firmware a secret area that reaches into the firmware.
func farFooter(fd string) string {
	b := []byte(fd)
	guid := []byte{0x61, 0xb3, 0x2e, 0x4c, 0x9b, 0x7d, 0xc3, 0x4c, 0x80, 0x81, 0x12, 0x7c, 0x90, 0xd3, 0xd2, 0x94}
	at := bytes.LastIndex(b, guid) - 2 - 8 // before the length: base, size
	binary.LittleEndian.PutUint32(b[at:], 0xfffffff0)
	return string(b)
}

func TestInspectHashesTable(t *testing.T) {
	table, err := measure.NewHashesTable(strings.NewReader("kernel"), nil, "x")
	if err != nil {
		t.Fatal(err)
	}
	whole := string(table.Marshal())
	head := func(n byte, entries string) string { return whole[:16] + string([]byte{n, 0}) + entries }
	cmdline, initrd, kernel := whole[18:68], whole[68:118], whole[118:168]
	checkInspect(t, map[string]inspected{
		"whole":         {whole, "hashes_table", fault.OK, "(no initrd)"},
		"without zeros": {whole[:168], "hashes_table", fault.OK, "padding"},
		"no kernel":     {head(118, cmdline+initrd), "hashes_table", fault.Failed, "which is DANGEROUS"},
		"no initrd":     {head(118, cmdline+kernel), "hashes_table", fault.Failed, "which is DANGEROUS"},
		"empty":         {head(18, ""), "hashes_table", fault.Failed, "which is DANGEROUS"},
		"twice":         {head(168, cmdline+cmdline+kernel), "hashes_table", fault.Failed, "which is DANGEROUS"},
		"another order": {head(168, kernel+initrd+cmdline) + whole[168:], "hashes_table", fault.Failed, "differ"},
		"cut":           {whole[:100], "hashes_table", fault.Failed, "which is DANGEROUS"},
		"much after it": {whole + strings.Repeat("x", 9000), "hashes_table", fault.Failed, "not a table"},
	})
}

func TestInspectSecretTable(t *testing.T) {
	dir := t.TempDir()
	key := put(t, filepath.Join(dir, "key"), passphrase)
	table := filepath.Join(dir, "table")
	if code, _, stderr := call(t, "secret", "build", guid+"="+key, "-o", table); code != fault.OK {
		t.Fatal(stderr)
	}
	good, err := os.ReadFile(table)
	if err != nil {
		t.Fatal(err)
	}
	checkInspect(t, map[string]inspected{
		"good":      {string(good), "secret_table", fault.OK, "entries: " + guid},
		"cut":       {string(good[:40]), "secret_table", fault.Failed, "refuses the whole table"},
		"too long":  {string(good) + strings.Repeat("\x00", 5000), "secret_table", fault.Failed, "hashes table"},
		"very long": {string(good) + strings.Repeat("\x00", inspect.MaxTable), "secret_table", fault.Failed, "LAUNCH_SECRET"},
		"a key":     {passphrase, "", fault.Failed, "known are: "},
	})
	if _, out, _ := call(t, "inspect", table, "--show-secrets"); !strings.Contains(out, passphrase) {
		t.Errorf("inspect --show-secrets = %q; want the secret", out)
	}
}

func TestInspectImage(t *testing.T) {
	oracle.Tool(t, "mksquashfs")
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "image")
	if code, _, stderr := call(t, "seal", root, "-o", path, "--allow", "no-init"); code != fault.OK {
		t.Fatal(stderr)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if code, out, stderr := call(t, "inspect", path); code != fault.OK || !strings.Contains(out, "parameters from: "+path+".cmdline") {
		t.Errorf("inspect beside the command line = %d, %q, %q", code, out, stderr)
	}
	if code, out, stderr := call(t, "inspect", path+".cmdline"); code != fault.OK || !strings.Contains(out, "disk: /dev/vda") {
		t.Errorf("inspect of the command line = %d, %q, %q", code, out, stderr)
	}
	manifest, err := os.ReadFile(path + ".manifest.json")
	if err != nil {
		t.Fatal(err)
	}
	checkInspect(t, map[string]inspected{
		"manifest":          {string(manifest), "manifest", fault.OK, "filesystem: squashfs"},
		"manifest, changed": {strings.Replace(string(manifest), `"filesystem": "squashfs"`, `"filesystem": "ext4"`, 1), "manifest", fault.Failed, "another file system"},
		"manifest, cut":     {string(manifest[:len(manifest)-2]), "manifest", fault.Failed, "not a manifest"},
	})
	// flip changes a byte of the image.
	flip := func(at int) string {
		b := bytes.Clone(good)
		b[at] ^= 1
		return string(b)
	}
	line, err := cmdline.ReadFile(path + ".cmdline")
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.Parse(line)
	if err != nil {
		t.Fatal(err)
	}
	data := int(p.Image.DataSize())
	checkInspect(t, map[string]inspected{
		"alone":           {string(good), "sealed_image", fault.OK, "kdf: pbkdf2 with 1000 iterations"},
		"first header":    {flip(5000), "sealed_image", fault.Failed, "does not match its checksum"},
		"second header":   {flip(16384 + 5000), "sealed_image", fault.Failed, "second copy"},
		"no first header": {string(good[16384:]), "sealed_image", fault.Failed, "is where the first belongs"},
		"superblock":      {flip(data), "sealed_image", fault.Failed, "not the superblock"},
		"cut":             {string(good[:20000]), "sealed_image", fault.Failed, "it is cut"},
		"header alone":    {string(good[:1<<20]), "sealed_image", fault.Failed, "segments"},
		"a block less":    {string(good[:len(good)-4096]), "sealed_image", fault.Failed, "it is cut, or has no hash tree"},
		"version 1":       {"LUKS\xba\xbe\x00\x01" + string(good[8:]), "sealed_image", fault.Failed, "LUKS1"},
	})
	put(t, path, flip(data+4096)) // the top of the tree, where the parameters are beside
	if code, out, _ := call(t, "inspect", path); code != fault.Failed || !strings.Contains(out, "not the root hash") {
		t.Errorf("inspect of a changed tree = %d, %q; want the hashes to differ", code, out)
	}
	put(t, path, string(good)+"more")
	if code, out, _ := call(t, "inspect", path); code != fault.Failed || !strings.Contains(out, "of the parameters in") {
		t.Errorf("inspect of a longer image = %d, %q", code, out)
	}
}

// A sparse image of 1 TiB is inspected as fast as any: what lies between the
// header and the tree is not read.
func TestInspectImageIsBounded(t *testing.T) {
	oracle.Tool(t, "mksquashfs")
	dir := t.TempDir()
	path := filepath.Join(dir, "image")
	if err := os.Mkdir(filepath.Join(dir, "root"), 0o755); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := call(t, "seal", filepath.Join(dir, "root"), "-o", path, "--allow", "no-init"); code != fault.OK {
		t.Fatal(stderr)
	}
	if err := os.Truncate(path, 1<<40); err != nil {
		oracle.Missing(t, "a file system with sparse files of 1 TiB: %v", err)
	}
	code, out, _ := call(t, "inspect", path)
	if code != fault.Failed || !strings.Contains(out, "1099511627776 bytes are not the") {
		t.Errorf("inspect = %d, %q", code, out)
	}
}

func TestInspectArchiveAndKernel(t *testing.T) {
	member := func(name, mode, data string) string {
		head := "070701" + "00000001" + mode + strings.Repeat("0", 8*4) + hex8(len(data)) + strings.Repeat("0", 8*4) + hex8(len(name)+1) + "00000000"
		return pad4(pad4(head+name+"\x00") + data)
	}
	trailer := member("TRAILER!!!", "00000000", "")
	kernel := make([]byte, 4096)
	copy(kernel, "MZ")
	kernel[0x3c] = 0x80
	copy(kernel[0x80:], "PE\x00\x00")
	copy(kernel[0x202:], "HdrS\x0f\x02")
	kernel[0x1f1], kernel[0x1f4], kernel[0x20f] = 3, 128, 2
	copy(kernel[0x400:], "6.12 (me)\x00")
	noStub := bytes.Clone(kernel)
	noStub[0] = 0
	checkInspect(t, map[string]inspected{
		"script":       {member("init", "000081ed", "#!/bin/sh\n") + trailer, "archive", fault.Failed, "members: -rwxr-xr-x       10 init"},
		"no init":      {member("a", "000081a4", "") + trailer, "archive", fault.Failed, "no init"},
		"fake reports": {member("lib/modules/x.ko", "000081a4", "name=fake_tsm\x00") + trailer, "archive", fault.Failed, "FALSE attestation reports"},
		"debug":        {member("bbin/gosh", "0000a1ff", "bb") + trailer, "debug_archive", fault.Failed, "SHELL"},
		"cut":          {member("init", "000081ed", "#!/bin/sh\n"), "archive", fault.Failed, "before its trailer"},
		"escapes":      {member("a\x1b[2J", "000081a4", "") + trailer, "archive", fault.Failed, `a\x1b[2J`},
		"gzip of junk": {"\x1f\x8bjunk", "archive", fault.Failed, "not a complete cpio archive"},
		"zstd of junk": {"\x28\xb5\x2f\xfdjunk", "archive", fault.Failed, "not a complete cpio archive"},
		"kernel":       {string(kernel), "kernel", fault.OK, "version: 6.12 (me)"},
		"cut kernel":   {string(kernel[:4000]), "kernel", fault.Failed, "it is cut"},
		"no EFI stub":  {string(noStub), "kernel", fault.Failed, "no EFI stub"},
	})
}

func hex8(n int) string { return string([]byte("00000000")[:8-len(hexOf(n))]) + hexOf(n) }

func hexOf(n int) string { return fmt.Sprintf("%x", n) }

func pad4(s string) string { return s + strings.Repeat("\x00", (4-len(s)%4)%4) }

func TestInspectOwnersFiles(t *testing.T) {
	r := newRig(t, "0x7")
	r.collect(&fakeQEMU{Guest: r.guest, Type: "sev"})
	if code, _, stderr := r.verify("--raw"); code != fault.OK {
		t.Fatal(stderr)
	}
	header := string(r.read("p_header.bin"))
	text := base64.StdEncoding.EncodeToString([]byte(header))
	report := string(r.read("report"))
	line := "console=ttyS0 cocoroot.disk=/dev/vda"
	stateHeader := "cocoroot state\r\n\x01\x00\x00\x00\x1f\x00\x00\x00data" + strings.Repeat("\x00", 28) + strings.Repeat("s", 32)
	stateHeader += strings.Repeat("\x00", 4096-len(stateHeader))
	checkInspect(t, map[string]inspected{
		"packet":               {string(r.read("p_packet.json")), "packet", fault.OK, "payload size: 64"},
		"packet, changed":      {strings.Replace(string(r.read("p_packet.json")), `"version": 1`, `"version": 2`, 1), "packet", fault.Failed, "version 2"},
		"header":               {header, "packet_header", fault.OK, "iv: "},
		"header in base64":     {text, "packet_header", fault.OK, "mac: "},
		"header with newline":  {text + "\n", "packet_header", fault.OK, "mac: "},
		"header with flag":     {"\x01" + header[1:], "packet_header", fault.Failed, "compression"},
		"52 bytes of else":     {strings.Repeat("x", 52), "", fault.Failed, "none of the files"},
		"report":               {report, "launch_report", fault.OK, "policy: 0x7"},
		"report, changed":      {strings.Replace(report, `"version": 1`, `"version": 3`, 1), "launch_report", fault.Failed, "version 3"},
		"session":              {string(r.read("vm_session.b64")), "session_blob", fault.OK, "by its size"},
		"owner's certificate":  {string(r.read("vm_godh.b64")), "sev_certificates", fault.OK, "certificates: PDH"},
		"chain":                {string(r.read("chain")), "sev_certificates", fault.Failed, "certificates: CEK"},
		"TIK":                  {string(r.read("vm_tik.bin")), "transport_key", fault.OK, "SECRET"},
		"state disk":           {stateHeader, "state_disk", fault.OK, "name: data"},
		"state disk, both":     {bothCopies(stateHeader, stateHeader), "state_disk", fault.OK, "name: data"},
		"state disk, second":   {bothCopies(strings.Repeat("x", 4096), stateHeader), "state_disk", fault.OK, "the guest takes the other\n"},
		"state disk, two":      {bothCopies(stateHeader, strings.Replace(stateHeader, "sss", "sst", 1)), "state_disk", fault.OK, "copies of its header differ"},
		"state disk, changed":  {stateHeader[:60] + strings.Repeat("x", 100) + stateHeader[160:], "state_disk", fault.Failed, "another version"},
		"state disk, cut":      {stateHeader[:100], "state_disk", fault.Failed, "another version"},
		"state key":            {strings.Repeat("\xff", 64), "state_key", fault.OK, "SECRET"},
		"other JSON":           {`{"a": 1}`, "", fault.Failed, "none of the files"},
		"command line, broken": {line, "command_line", fault.Failed, "the guest would refuse it"},
		"command line, long":   {line + strings.Repeat(" x", 1100), "command_line", fault.Failed, "the kernel keeps 2048"},
		"two lines":            {line + "\n\n", "command_line", fault.Failed, "it is one line"},
	})
}

// bothCopies is the start of a state disk, with the two copies of its header.
func bothCopies(first, second string) string {
	return first + strings.Repeat("\x00", state.SecondCopy-len(first)) + second
}

// Whatever the tool writes, inspect knows.
func TestInspectKnowsWhatIsWritten(t *testing.T) {
	r := newRig(t, "0x7")
	r.collect(&fakeQEMU{Guest: r.guest, Type: "sev"})
	if code, _, stderr := r.verify("--raw"); code != fault.OK {
		t.Fatal(stderr)
	}
	g := newGuestRig(t)
	for _, name := range templateNames() {
		_, mode, _ := strings.Cut(name, "-")
		g.template(name, g.with(mode, "--manifest", g.manifest, "--qmp-socket", "/run/vm/qmp", "--qemu-version", "10.0", "-o", r.path(name))...)
	}
	for name, want := range map[string]string{
		"report": "launch_report", "p_packet.json": "packet", "p_header.b64": "packet_header", "p_header.bin": "packet_header",
		"p_secret.b64": "packet_secret", "p_secret.bin": "packet_secret", "vm_session.b64": "session_blob", "vm_godh.b64": "sev_certificates",
		"vm_tik.bin": "transport_key", "vm_tek.bin": "transport_key", "qemu-sev": "launch_script", "qemu-sev-snp": "launch_script",
		"libvirt-sev": "libvirt_domain", "libvirt-sev-es": "libvirt_domain", "libvirt-sev-snp": "libvirt_domain",
	} {
		code, out, stderr := call(t, "inspect", "--json", r.path(name))
		if code != fault.OK || !strings.Contains(out, `"kind": "`+want+`"`) {
			t.Errorf("inspect %s = %d, %s, %s; want the kind %s", name, code, out, stderr, want)
		}
	}
	snp := newAsked(t)
	channel, got := snp.socket()
	snp.ok("release", "challenge", "-o", snp.path("challenge"))
	snp.ok("release", "collect", "--channel", channel, "--challenge", snp.path("challenge"), "-o", snp.path("report"))
	snp.ok(snp.verify()...)
	snp.ok("release", "inject", snp.path("vm_packet.json"), "--channel", channel)
	<-got
	for name, want := range map[string]string{
		"me.key": "owner_key", "me.pub": "owner_public", "challenge.used": "challenge", "report": "snp_report", "vm_packet.json": "snp_packet",
	} {
		if out := snp.ok("inspect", "--json", snp.path(name)); !strings.Contains(out, `"kind": "`+want+`"`) {
			t.Errorf("inspect %s = %s; want the kind %s", name, out, want)
		}
	}
	odd := put(t, r.path("odd_secret.bin"), "fifteen bytes..")
	if code, out, stderr := call(t, "inspect", odd); code != fault.Failed || !strings.Contains(stderr, "none of the files") {
		t.Errorf("inspect of 15 bytes = %d, %q, %q", code, out, stderr)
	}
}

func TestInspectUsage(t *testing.T) {
	for name, args := range map[string][]string{
		"no file": {"inspect"}, "two files": {"inspect", "a", "b"}, "unknown option": {"inspect", "a", "--show"},
	} {
		if code, out, stderr := call(t, args...); code != fault.Usage || out != "" || !strings.Contains(stderr, "hint: ") {
			t.Errorf("%s: %d, %q, %q; want usage", name, code, out, stderr)
		}
	}
}
