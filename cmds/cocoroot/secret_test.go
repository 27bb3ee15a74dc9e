package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"cocoroot/initramfs/fault"
	"cocoroot/unlock/policy"
)

func TestSecretInspect(t *testing.T) {
	dir := t.TempDir()
	key := put(t, filepath.Join(dir, "key"), "MY-LUKS-PASSPHRASE\n")
	table := filepath.Join(dir, "table")
	if code, _, stderr := call(t, "secret", "build", guid+"="+key, "-o", table); code != fault.OK || !strings.Contains(stderr, "ends in a newline") {
		t.Errorf("build of a key with a newline = %d, %q; want a warning", code, stderr)
	}
	good, err := os.ReadFile(table)
	if err != nil {
		t.Fatal(err)
	}
	header := append([]byte("x"), good[1:]...)
	zeros := append([]byte(nil), good...)
	zeros[16] += 20 // the length counts the padding and more
	zeros = append(zeros, make([]byte, 32)...)

	for name, tc := range map[string]struct {
		table string
		code  int
		says  string // on stdout
		hint  string
	}{
		"good":          {string(good), fault.OK, "ends in a newline: disk key", ""},
		"wrong header":  {string(header), fault.Failed, "sees no secrets", "says nothing"},
		"truncated":     {string(good[:40]), fault.Failed, "refuses the whole table", "refuses the whole table"},
		"zeros counted": {string(zeros), fault.Failed, "refuses the whole table", "refuses the whole table"},
		"too long":      {string(good) + strings.Repeat("\x00", 4096), fault.Failed, "entries: " + guid, "hashes table"},
	} {
		path := put(t, filepath.Join(dir, "t"), tc.table)
		code, out, stderr := call(t, "secret", "inspect", path)
		if code != tc.code || !strings.Contains(out, tc.says) || !strings.Contains(stderr, tc.hint) {
			t.Errorf("%s: inspect = %d, %q, %q; want %d, %q, %q", name, code, out, stderr, tc.code, tc.says, tc.hint)
		}
		if strings.Contains(out+stderr, "MY-LUKS") {
			t.Errorf("%s: the secret is in the output", name)
		}
	}

	_, out, _ := call(t, "secret", "inspect", table, "--json")
	var r struct {
		Entries []struct {
			Size int
			Data []byte
		}
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil || len(r.Entries) != 1 || r.Entries[0].Data != nil || r.Entries[0].Size != 19 {
		t.Errorf("inspect --json = %s, %v; want one entry without its data", out, err)
	}
	if _, out, _ := call(t, "secret", "inspect", table, "--show-secrets"); !strings.Contains(out, "MY-LUKS") {
		t.Errorf("inspect --show-secrets = %q; want the secret", out)
	}
}

func TestSecretUsage(t *testing.T) {
	for name, args := range map[string][]string{
		"no command":     {"secret"},
		"wrong command":  {"secret", "bulid"},
		"no table":       {"secret", "inspect"},
		"two tables":     {"secret", "inspect", "a", "b"},
		"unknown option": {"secret", "inspect", "a", "--show"},
	} {
		if code, out, stderr := call(t, args...); code != fault.Usage || out != "" || !strings.Contains(stderr, "hint: ") {
			t.Errorf("%s: %d, %q, %q; want usage", name, code, out, stderr)
		}
	}
	if code, out, _ := call(t, "secret", "inspect", "--help"); code != fault.OK || !strings.Contains(out, "usage: cocoroot secret inspect TABLE") {
		t.Errorf("secret inspect --help = %d, %q", code, out)
	}
}

// A key that ends in a newline is used as it is, with a word about it; a
// text of several lines ends in one by right.
func TestNewlineWarning(t *testing.T) {
	dir := t.TempDir()
	const secret = "MY-LUKS-PASSPHRASE-IS-LONG-ENOUGH"
	for name, tc := range map[string]struct {
		text string
		want bool
	}{
		"none": {secret, false}, "newline": {secret + "\n", true}, "DOS": {secret + "\r\n", true},
		"blank": {secret + " ", true}, "lines": {"one\ntwo\n", false},
	} {
		key := put(t, filepath.Join(dir, "key"), tc.text)
		code, _, stderr := call(t, "secret", "build", guid+"="+key, "-o", filepath.Join(dir, "table"), "--force")
		if code != fault.OK || strings.Contains(stderr, "cocoroot: warning: ") != tc.want || strings.Contains(stderr, "LUKS") {
			t.Errorf("%s: secret build = %d, %q; want a warning: %t", name, code, stderr, tc.want)
		}
	}
}

// The names disk and state stand for the GUIDs that seal writes.
func TestSecretNames(t *testing.T) {
	dir := t.TempDir()
	key := put(t, filepath.Join(dir, "key"), secretKey)
	var tables []string
	for i, names := range [][2]string{{"disk", "state"}, {policy.DefaultKey.String(), policy.DefaultStateKey.String()}} {
		table := filepath.Join(dir, "table"+strconv.Itoa(i))
		if code, _, stderr := call(t, "secret", "build", names[0]+"="+key, names[1]+"="+key, "-o", table); code != fault.OK {
			t.Fatalf("secret build of %s = %d, %q", names, code, stderr)
		}
		b, err := os.ReadFile(table)
		if err != nil {
			t.Fatal(err)
		}
		tables = append(tables, string(b))
	}
	if tables[0] != tables[1] {
		t.Error("disk= and state= make another table than their GUIDs")
	}
	twice := []string{"secret", "build", "disk=" + key, guid + "=" + key, "-o", filepath.Join(dir, "twice")}
	if code, _, stderr := call(t, twice...); code != fault.Failed {
		t.Errorf("the same entry twice = %d, %q", code, stderr)
	}
	if code, _, stderr := call(t, "secret", "build", "disks="+key, "-o", filepath.Join(dir, "none")); code != fault.Usage {
		t.Errorf("disks= = %d, %q", code, stderr)
	}
}
