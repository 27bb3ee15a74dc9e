package ovmf

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/ulikunitz/xz/lzma"
)

func TestOwn(t *testing.T) {
	ours := sha256.Sum256([]byte("firmware"))
	own, err := ParseOwn(fmt.Sprintf("%x edk2 1, two words", ours))
	if err != nil || own.Version() != "edk2 1, two words" || own.Check(ours) != nil {
		t.Errorf("ParseOwn = %+v, %v; want our firmware", own, err)
	}
	other := ours
	other[31] ^= 1
	if err := own.Check(other); !errors.Is(err, ErrForeign) {
		t.Errorf("Check of one bit else = %v; want ErrForeign", err)
	}
	none, err := ParseOwn("")
	if err != nil || !errors.Is(none.Check(ours), ErrForeign) || !errors.Is(none.Check([32]byte{}), ErrForeign) {
		t.Errorf("a program without firmware: %v, %v, %v; want ErrForeign of each", err, none.Check(ours), none.Check([32]byte{}))
	}
	good := fmt.Sprintf("%x", ours)
	for _, bad := range []string{" ", "x", good[1:], good + "0", good[:62] + "xx", "edk2 " + good, strings.Repeat("0", 4096)} {
		if own, err := ParseOwn(bad); err == nil {
			t.Errorf("ParseOwn(%.80q) = %+v; want an error", bad, own)
		}
	}
}

// packed is a section as edk2 writes it, with code in it.
func packed(t testing.TB, code []byte) []byte {
	t.Helper()
	var data bytes.Buffer
	w, err := lzma.NewWriter(&data)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(code); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	size := guidedHead + data.Len()
	b := append([]byte{byte(size), byte(size >> 8), byte(size >> 16), guidedSection}, lzmaGUID[:]...)
	b = binary.LittleEndian.AppendUint16(b, guidedHead)
	b = binary.LittleEndian.AppendUint16(b, 1) // attribute: to be unpacked
	return append(b, data.Bytes()...)
}

func TestFindShim(t *testing.T) {
	zeros := make([]byte, 4096)
	name := []byte("\x04\x04\x12\x00s\x00h\x00i\x00m\x00\x00\x00\x00\x00") // a device path's node
	clean := packed(t, bytes.Repeat([]byte("shim kernel "), 999))
	hidden := packed(t, append(zeros, name...))
	cut := hidden[:len(hidden)-9]
	far := bytes.Clone(clean)
	far[20] = 0xff // the data begins after the section
	window := bytes.Clone(clean)
	binary.LittleEndian.PutUint32(window[guidedHead+1:], 1<<31-1)
	for what, tc := range map[string]struct {
		parts [][]byte
		want  Shim
	}{
		"nothing":           {nil, ShimUnknown},
		"not packed":        {[][]byte{zeros}, ShimUnknown},
		"in clear, ASCII":   {[][]byte{zeros, []byte("etc/boot/shim\x00")}, ShimLoaded},
		"in clear, UTF-16":  {[][]byte{zeros, name}, ShimLoaded},
		"packed, without":   {[][]byte{zeros, clean, zeros}, NoShim},
		"packed, with":      {[][]byte{zeros, hidden, zeros}, ShimLoaded},
		"in the second":     {[][]byte{zeros, clean, zeros, hidden}, ShimLoaded},
		"cut":               {[][]byte{cut}, ShimUnknown},
		"cut, with another": {[][]byte{far, clean}, NoShim},
		"no offset":         {[][]byte{far}, ShimUnknown},
		"damaged, another":  {[][]byte{window, clean}, ShimUnknown},
		"damaged, with":     {[][]byte{window, hidden}, ShimLoaded},
		"endless window":    {[][]byte{window}, ShimUnknown},
		"the GUID first":    {[][]byte{lzmaGUID[:], zeros}, ShimUnknown},
		"only the GUID":     {[][]byte{lzmaGUID[:]}, ShimUnknown},
		"too many to look":  {bytes.SplitAfter(bytes.Repeat(append(bytes.Clone(lzmaGUID[:]), '\n'), 99), []byte("\n")), ShimUnknown},
	} {
		if got := FindShim(bytes.Join(tc.parts, nil)); got != tc.want {
			t.Errorf("%s: FindShim = %v; want %v", what, got, tc.want)
		}
	}
}

// A packed section may claim to unpack to anything.
func TestFindShimBounded(t *testing.T) {
	bomb := packed(t, make([]byte, maxUnpacked+1))
	if got := FindShim(bomb); got != ShimUnknown {
		t.Errorf("FindShim of more than %d bytes = %v; want %v", maxUnpacked, got, ShimUnknown)
	}
}

func FuzzFindShim(f *testing.F) {
	f.Add([]byte{})
	f.Add(packed(f, []byte("etc/boot/shim\x00")))
	f.Add(packed(f, []byte("kernel")))
	f.Fuzz(func(t *testing.T, b []byte) { FindShim(b) })
}

// The seeds get to the end: into a packed section, with and without the name.
func TestFuzzFindShimSeeds(t *testing.T) {
	if with, without := FindShim(packed(t, []byte("etc/boot/shim\x00"))), FindShim(packed(t, []byte("kernel"))); with != ShimLoaded || without != NoShim {
		t.Errorf("seeds: %v, %v; want yes, no", with, without)
	}
}
