package dm

import (
	"errors"
	"testing"
)

// statusSeeds are answers; the first two can be read.
func statusSeeds() [][]byte {
	one := spec(8, "verity", "V")
	return [][]byte{one, append(spec(16, "a type of 16 byte", "0 1 x"), one...), nil, one[:39], one[:40], one[:41]}
}

// FuzzParseTarget: the answer is the kernel's, but its text tells of what the
// host's disk holds.
func FuzzParseTarget(f *testing.F) {
	for _, s := range statusSeeds() {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		got, err := parseTarget(answer)
		if err != nil {
			if !errors.Is(err, errStatus) || got != (target{}) {
				t.Errorf("parseTarget = %v, %v; want errStatus and no target", got, err)
			}
			return
		}
		if len(got.kind) > 16 || len(got.text) > len(answer) {
			t.Errorf("parseTarget of %d bytes = %+v", len(answer), got)
		}
	})
}

func TestFuzzParseTargetSeeds(t *testing.T) {
	for i, s := range statusSeeds() {
		if _, err := parseTarget(s); (err == nil) != (i < 2) {
			t.Errorf("seed %d: parseTarget = %v; want the first two accepted", i, err)
		}
	}
}
