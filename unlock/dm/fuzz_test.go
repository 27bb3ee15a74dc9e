package dm

import (
	"errors"
	"testing"
)

type statusSeed struct {
	answer []byte
	count  uint32
}

func statusSeeds() []statusSeed {
	one := spec(48, 8, "verity", "V")
	two := append(append([]byte{}, one...), spec(96, 16, "crypt", "x")...)
	return []statusSeed{
		{one, 1}, {two, 2}, {nil, 0},
		{nil, 1}, {one[:39], 1}, {one[:41], 1}, {spec(0, 8, "verity", "V"), 2}, {spec(1<<31, 8, "verity", "V"), 2}, {two, 1 << 31},
	}
}

// FuzzParseTargets: the answer is the kernel's, but its text tells of what the
// host's disk holds.
func FuzzParseTargets(f *testing.F) {
	for _, s := range statusSeeds() {
		f.Add(s.answer, s.count)
	}
	f.Fuzz(func(t *testing.T, answer []byte, count uint32) {
		targets, err := parseTargets(answer, count)
		if err != nil {
			if !errors.Is(err, errStatus) || targets != nil {
				t.Errorf("parseTargets = %v, %v; want errStatus and no targets", targets, err)
			}
			return
		}
		if len(targets) != int(count) {
			t.Errorf("parseTargets = %d targets; want %d", len(targets), count)
		}
		for _, g := range targets {
			if len(g.kind) > 16 || len(g.text) > len(answer) {
				t.Errorf("parseTargets of %d bytes has %+v", len(answer), g)
			}
		}
	})
}

func TestFuzzParseTargetsSeeds(t *testing.T) {
	for i, s := range statusSeeds() {
		if _, err := parseTargets(s.answer, s.count); (err == nil) != (i < 3) {
			t.Errorf("seed %d: parseTargets = %v; want the first three accepted", i, err)
		}
	}
}
