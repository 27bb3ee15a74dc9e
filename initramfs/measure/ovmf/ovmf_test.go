package ovmf

import (
	"encoding/binary"
	"errors"
	"os"
	"reflect"
	"slices"
	"testing"

	"cocoroot/initramfs/oracle"
	"cocoroot/unlock/efi"
)

// entry is one entry of a synthesized footer.
type entry struct {
	guid efi.GUID
	data []byte
}

func words(v ...uint32) []byte {
	var b []byte
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, x)
	}
	return b
}

func tail(data []byte, length int, guid efi.GUID) []byte {
	b := slices.Clone(data)
	b = binary.LittleEndian.AppendUint16(b, uint16(length))
	return append(b, guid[:]...)
}

// image puts entries, in the order in which Parse meets them, before a footer
// at the end of a 4 KiB image whose metadata stands at its start.
func image(metadata []byte, entries ...entry) []byte {
	var table []byte
	for _, e := range entries {
		table = append(tail(e.data, len(e.data)+headSize, e.guid), table...)
	}
	table = tail(table, len(table)+headSize, footerGUID)
	b := make([]byte, 4096)
	copy(b, metadata)
	copy(b[len(b)-resetVectorSize-len(table):], table)
	return b
}

func metadata(version uint32, sections ...uint32) []byte {
	b := append([]byte("ASEV"), words(uint32(metadataHead+4*len(sections)), version, uint32(len(sections)/3))...)
	return append(b, words(sections...)...)
}

func good() []byte {
	return image(
		metadata(1, 0x800000, 0x9000, 1, 0x80d000, 0x1000, 2, 0x810000, 0x1000, 0x10),
		entry{resetGUID, words(0x80b004)},
		entry{secretGUID, words(0x80c000, 0xc00)},
		entry{hashesGUID, words(0x80cc00, 0x400)},
		entry{metadataGUID, words(4096)},
		entry{efi.MustParse("784fa70e-3176-4677-8a20-04b68699e374"), words(1, 2, 3)},
	)
}

func TestParse(t *testing.T) {
	got, err := Parse(good())
	if err != nil {
		t.Fatal(err)
	}
	want := Firmware{
		ImageSize: 4096,
		Secret:    Area{0x80c000, 0xc00}, Hashes: Area{0x80cc00, 0x400},
		ResetAddress: 0x80b004,
		Sections: []Section{
			{Area{0x800000, 0x9000}, SecMem},
			{Area{0x80d000, 0x1000}, Secrets},
			{Area{0x810000, 0x1000}, KernelHashes},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("Parse = %+v; want %+v", got, want)
	}
	if got.Base() != 0xfffff000 {
		t.Errorf("Base() = %#x; want 0xfffff000", got.Base())
	}
}

func TestParseEmptyFooter(t *testing.T) {
	got, err := Parse(image(nil))
	if err != nil || got.Secret.Present() || got.Hashes.Present() || got.ResetAddress != 0 || got.Sections != nil {
		t.Errorf("Parse(footer without entries) = %+v, %v; want nothing present", got, err)
	}
}

func TestParseRefuses(t *testing.T) {
	edit := func(at int, with ...byte) []byte { // at counts from the end
		b := good()
		copy(b[len(b)-at:], with)
		return b
	}
	secret := entry{secretGUID, words(0x80c000, 0xc00)}
	pastEnd := image(nil, entry{metadataGUID, words(32)})
	copy(pastEnd[4096-32:], metadata(1, 0, 4096, 1, 4096, 4096, 1)) // 40 bytes
	section := func(m []byte) []byte { return image(m, entry{metadataGUID, words(4096)}) }
	tests := []struct {
		name  string
		image []byte
		want  error
	}{
		{"empty", nil, ErrNoFooter},
		{"too short for a footer", good()[4096-49:], ErrNoFooter},
		{"no footer", make([]byte, 4096), ErrNoFooter},
		{"shifted by one byte", append(good(), 0), ErrNoFooter},
		{"footer GUID flipped", edit(48, 0xdf), ErrNoFooter},
		{"truncated at the start", good()[4096-100:], ErrFooter},
		{"footer length 0", edit(50, 0, 0), ErrFooter},
		{"footer length 17", edit(50, 17, 0), ErrFooter},
		{"footer length past the image", edit(50, 0xff, 0xff), ErrFooter},
		{"footer one byte longer than its entries", edit(50, 18+22+26+26+22+30+1), ErrFooter},
		{"entry length 17", edit(68, 17, 0), ErrFooter},
		{"entry length past the footer", edit(68, 0, 1), ErrFooter},
		{"repeated GUID", image(nil, secret, secret), ErrFooter},
		{"repeated unknown GUID", image(nil, entry{}, entry{}), ErrFooter},
		{"footer GUID as an entry", image(nil, entry{footerGUID, nil}), ErrFooter},
		{"secret entry of 4 bytes", image(nil, entry{secretGUID, words(1)}), ErrFooter},
		{"hashes entry of 12 bytes", image(nil, entry{hashesGUID, words(1, 2, 3)}), ErrFooter},
		{"reset entry of 2 bytes", image(nil, entry{resetGUID, []byte{1, 2}}), ErrFooter},
		{"secret area wraps", image(nil, entry{secretGUID, words(0xffffff00, 0x200)}), ErrFooter},
		{"secret area in the firmware", image(nil, entry{secretGUID, words(0xffffe800, 0xc00)}), ErrFooter},
		{"areas overlap", image(nil, secret, entry{hashesGUID, words(0x80cbff, 0x400)}), ErrFooter},
		{"one area inside the other", image(nil, secret, entry{hashesGUID, words(0x80c100, 0x10)}), ErrFooter},
		{"metadata before the image", image(metadata(1), entry{metadataGUID, words(4097)}), ErrFooter},
		{"metadata head past the image", image(metadata(1), entry{metadataGUID, words(15)}), ErrFooter},
		{"metadata offset 2^32-1", image(metadata(1), entry{metadataGUID, words(1<<32 - 1)}), ErrFooter},
		{"metadata magic", section([]byte("ASEW")), ErrFooter},
		{"metadata version 2", section(metadata(2)), ErrFooter},
		{"metadata length", section(append([]byte("ASEV"), words(29, 1, 1, 0, 0x1000, 1)...)), ErrFooter},
		{"metadata past the image", pastEnd, ErrFooter},
		{"metadata count 2^32-1", section(append([]byte("ASEV"), words(4, 1, 1<<32-1)...)), ErrFooter},
		{"section without pages", section(metadata(1, 0x1000, 0, 1)), ErrFooter},
		{"section between pages", section(metadata(1, 0x1800, 0x1000, 1)), ErrFooter},
		{"section of half a page", section(metadata(1, 0x1000, 0x800, 1)), ErrFooter},
		{"section in the firmware", section(metadata(1, 0xfffff000, 0x1000, 1)), ErrFooter},
		{"sections overlap", section(metadata(1, 0x3000, 0x1000, 1, 0x1000, 0x3000, 1)), ErrFooter},
	}
	for _, tt := range tests {
		got, err := Parse(tt.image)
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: Parse error = %v; want %v", tt.name, err, tt.want)
		}
		if !reflect.DeepEqual(got, Firmware{}) {
			t.Errorf("%s: Parse returned %+v beside its error", tt.name, got)
		}
	}
}

// TestStock reads Debian's build for measured direct boot.
func TestStock(t *testing.T) {
	image, err := os.ReadFile(oracle.Fixture(t, "stock/OVMF.amdsev.fd"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(image)
	if err != nil || got.Secret.Size != 0xc00 || got.Hashes.Size != 0x400 || got.ResetAddress == 0 {
		t.Errorf("Parse = %+v, %v; want 0xc00 bytes for secrets, 0x400 for hashes", got, err)
	}
}

func TestFits(t *testing.T) {
	a := Area{0x810000, 0xc00}
	for _, tt := range []struct {
		area Area
		n    int
		want error
	}{
		{a, 0xc00, nil}, {a, 1, nil}, {a, 0xc01, ErrTooLong}, {Area{}, 0, nil}, {Area{}, 1, ErrNoArea},
	} {
		if err := tt.area.Fits(tt.n); !errors.Is(err, tt.want) {
			t.Errorf("%+v.Fits(%d) = %v; want %v", tt.area, tt.n, err, tt.want)
		}
	}
}

// TestVectors reads images whose footers were also read by other tools (the
// digests of package measure's vectors depend on them).
func TestVectors(t *testing.T) {
	for _, tt := range []struct {
		file           string
		secret, hashes Area
		sections       int
	}{
		{"amdsev.fd", Area{0x810000, 0xc00}, Area{0x810c00, 0x400}, 7},
		{"ovmfx64.fd", Area{}, Area{}, 6},
	} {
		t.Run(tt.file, func(t *testing.T) {
			got, err := Parse(oracle.Vector(t, tt.file))
			if err != nil {
				t.Fatal(err)
			}
			if got.Secret != tt.secret || got.Hashes != tt.hashes || len(got.Sections) != tt.sections || got.ResetAddress != 0x80b004 {
				t.Errorf("Parse = %+v; want secret %+v, hashes %+v, %d sections, reset address 0x80b004", got, tt.secret, tt.hashes, tt.sections)
			}
		})
	}
}
