package ovmf

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestOwn(t *testing.T) {
	ours := sha256.Sum256([]byte("firmware"))
	own, err := ParseOwn(fmt.Sprintf("%x edk2 1, two words", ours))
	if err != nil || own.Version() != "edk2 1, two words" || own.Check(ours) != nil {
		t.Errorf("ParseOwn = %+v, %v; want our firmware", own, err)
	}
	other := ours
	other[31] ^= 1
	if err := own.Check(other); !errors.Is(err, errForeign) {
		t.Errorf("Check of one bit else = %v; want errForeign", err)
	}
	none, err := ParseOwn("")
	if err != nil || !errors.Is(none.Check(ours), errForeign) || !errors.Is(none.Check([32]byte{}), errForeign) {
		t.Errorf("a program without firmware: %v, %v, %v; want errForeign of each", err, none.Check(ours), none.Check([32]byte{}))
	}
	good := fmt.Sprintf("%x", ours)
	for _, bad := range []string{" ", "x", good[1:], good + "0", good[:62] + "xx", "edk2 " + good, strings.Repeat("0", 4096)} {
		if own, err := ParseOwn(bad); err == nil {
			t.Errorf("ParseOwn(%.80q) = %+v; want an error", bad, own)
		}
	}
}
