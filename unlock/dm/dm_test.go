package dm

import (
	"encoding/binary"
	"errors"
	"reflect"
	"testing"

	"golang.org/x/sys/unix"
)

// The mapping itself is tested by the boots; the host has no device-mapper.

func spec(next uint32, length uint64, kind, text string) []byte {
	b := make([]byte, unix.SizeofDmTargetSpec, 128)
	binary.NativeEndian.PutUint64(b[8:], length)
	binary.NativeEndian.PutUint32(b[20:], next)
	copy(b[24:40], kind)
	b = append(b, text...)
	for b = append(b, 0); len(b)%8 != 0; {
		b = append(b, 0)
	}
	return b
}

func TestParseTargets(t *testing.T) {
	one := spec(48, 8, "verity", "V")
	two := append(append([]byte{}, one...), spec(96, 16, "crypt", "x")...)
	got, err := parseTargets(two, 2)
	want := []target{{0, 8, "verity", "V"}, {0, 16, "crypt", "x"}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("parseTargets = %+v, %v; want %+v", got, err, want)
	}
	for name, bad := range map[string][]byte{
		"empty":       nil,
		"short":       one[:39],
		"no end":      one[:41],
		"loop":        spec(0, 8, "verity", "V"),
		"far outside": spec(1<<31, 8, "verity", "V"),
	} {
		if _, err := parseTargets(bad, 2); !errors.Is(err, errStatus) {
			t.Errorf("%s: parseTargets error = %v; want errStatus", name, err)
		}
	}
}
