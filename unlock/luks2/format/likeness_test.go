package format

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"slices"
	"strconv"
	"testing"

	"cocoroot/initramfs/oracle"
	"cocoroot/unlock/luks2"
)

// binaryFields are all bytes of the binary header (specification, section
// 2.1): name, offset, length.
var binaryFields = []struct {
	name        string
	offset, len int
}{
	{"magic", 0, 6}, {"version", 6, 2}, {"hdr_size", 8, 8}, {"seqid", 16, 8}, {"label", 24, 48}, {"checksum_alg", 72, 32},
	{"salt", 104, 64}, {"uuid", 168, 40}, {"subsystem", 208, 48}, {"hdr_offset", 256, 8}, {"_padding", 264, 184}, {"csum", 448, 64},
	{"_padding4096", 512, 3584},
}

// unlike are the fields in which a header of ours may differ from cryptsetup's
// for the same parameters, and why.
var unlike = map[string]string{
	"seqid": "it counts how often cryptsetup wrote the header, once for each part that it added",
	"salt":  "random", "csum": "of other bytes",
	"keyslots.0.kdf.salt": "random", "digests.0.salt": "random", "digests.0.digest": "of another volume key",
	"digests.0.iterations": "cryptsetup takes an eighth of a second; a random volume key needs no stretching",
}

// TestHeaderIsLikeCryptsetups compares every field of both copies with what
// cryptsetup writes for the same parameters.
func TestHeaderIsLikeCryptsetups(t *testing.T) {
	cryptsetup := oracle.Tool(t, "cryptsetup")
	for name, c := range map[string]struct {
		kdf  luks2.KDF
		args []string
	}{
		"pbkdf2":   {PBKDF2(1000), []string{"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"}},
		"argon2id": {Argon2id(4, 64, 2), []string{"--pbkdf", "argon2id", "--pbkdf-force-iterations", "4", "--pbkdf-memory", "64", "--pbkdf-parallel", "2"}},
	} {
		t.Run(name, func(t *testing.T) {
			o := options()
			o.KDF = c.kdf
			ours := region(t, o)
			image := file(t, "image", nil, 8<<20)
			oracle.Run(t, cryptsetup, append([]string{"luksFormat", "-q", "--type", "luks2", "--cipher", "aes-xts-plain64", "--key-size", "512",
				"--sector-size", "4096", "--hash", "sha256", "--uuid", string(bytes.TrimRight(ours[168:208], "\x00")),
				"--offset", strconv.Itoa(RegionSize / 512), "--luks2-metadata-size", "16k",
				"--luks2-keyslots-size", strconv.Itoa(RegionSize - 2*HeaderSize), "--key-file", file(t, "key", passphrase, 0)},
				append(c.args, image)...)...)
			theirs, err := os.ReadFile(image)
			if err != nil {
				t.Fatal(err)
			}
			for copy := range 2 {
				compareCopies(t, copy, ours[copy*HeaderSize:][:HeaderSize], theirs[copy*HeaderSize:][:HeaderSize])
			}
		})
	}
}

// compareCopies compares one copy, field by field.
func compareCopies(t *testing.T, number int, ours, theirs []byte) {
	t.Helper()
	end := 0
	for _, f := range binaryFields {
		if f.offset != end {
			t.Fatalf("%s does not follow what is before it", f.name)
		}
		end += f.len
		a, b := ours[f.offset:end], theirs[f.offset:end]
		if _, may := unlike[f.name]; !may && !bytes.Equal(a, b) {
			t.Errorf("copy %d: %s = %q; cryptsetup has %q", number, f.name, a, b)
		}
	}
	if end != luks2.BinaryHeaderSize {
		t.Fatalf("the fields end at %d", end)
	}
	a, b := flat(t, ours[luks2.BinaryHeaderSize:]), flat(t, theirs[luks2.BinaryHeaderSize:])
	for _, name := range slices.Sorted(maps.Keys(b)) {
		if _, ok := a[name]; !ok {
			t.Errorf("copy %d: there is no %s; cryptsetup has %s", number, name, b[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(a)) {
		if _, ok := b[name]; !ok {
			t.Errorf("copy %d: %s = %s, which cryptsetup has not", number, name, a[name])
		} else if _, may := unlike[name]; !may && a[name] != b[name] {
			t.Errorf("copy %d: %s = %s; cryptsetup has %s", number, name, a[name], b[name])
		}
	}
}

// flat returns the values of a JSON area by their path. After the text there
// are only zeros.
func flat(t *testing.T, area []byte) map[string]string {
	t.Helper()
	text, rest, _ := bytes.Cut(area, []byte{0})
	if len(bytes.Trim(rest, "\x00")) != 0 {
		t.Error("there is something after the JSON text")
	}
	var root any
	if err := json.Unmarshal(text, &root); err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	var walk func(path string, v any)
	walk = func(path string, v any) {
		if object, ok := v.(map[string]any); ok {
			all[path+"{}"] = "object"
			for key, v := range object {
				walk(path+"."+key, v)
			}
			return
		}
		value, _ := json.Marshal(v)
		all[path[1:]] = string(value)
	}
	walk("", root)
	return all
}
