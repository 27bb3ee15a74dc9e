package dm

import (
	"encoding/binary"
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// The mapping itself is tested by the boots; the host has no device-mapper.

func spec(length uint64, kind, text string) []byte {
	b := make([]byte, unix.SizeofDmTargetSpec, 128)
	binary.NativeEndian.PutUint64(b[8:], length)
	copy(b[24:40], kind)
	b = append(b, text...)
	for b = append(b, 0); len(b)%8 != 0; {
		b = append(b, 0)
	}
	return b
}

func TestParseTarget(t *testing.T) {
	one := spec(8, "verity", "V")
	want := target{0, 8, "verity", "V"}
	if got, err := parseTarget(one); err != nil || got != want {
		t.Errorf("parseTarget = %+v, %v; want %+v", got, err, want)
	}
	for name, bad := range map[string][]byte{"empty": nil, "short": one[:39], "no text": one[:40], "no end": one[:41]} {
		if _, err := parseTarget(bad); !errors.Is(err, errStatus) {
			t.Errorf("%s: parseTarget error = %v; want errStatus", name, err)
		}
	}
}
