package dm

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLimitReads(t *testing.T) {
	for name, tc := range map[string]struct {
		sectors, ahead, split  string // "": no such file
		wantSectors, wantAhead string
		err                    error
	}{
		"as a kernel has them":     {"1280", "128", "0", "128", "64", nil},
		"an older kernel":          {"1280", "128", "", "128", "64", nil},
		"smaller already":          {"64", "32", "0", "64", "32", nil},
		"no reading ahead":         {"1280", "0", "0", "128", "0", nil},
		"the host's optimum":       {"2147483647", "4194304", "0", "128", "64", nil},
		"dm-crypt splits more":     {"1280", "128", "4096", "1280", "128", errLimit},
		"dm-crypt told the same":   {"1280", "128", "131072", "128", "64", nil},
		"no such queue":            {"", "128", "0", "", "128", errLimit},
		"no number":                {"1280", "much", "0", "128", "much", errLimit},
		"a number and more, at it": {"128 ", "64", "0", "128 ", "64", errLimit},
	} {
		t.Run(name, func(t *testing.T) {
			queue := t.TempDir()
			split := filepath.Join(queue, "split")
			for path, text := range map[string]string{filepath.Join(queue, "max_sectors_kb"): tc.sectors, filepath.Join(queue, "read_ahead_kb"): tc.ahead, split: tc.split} {
				if text == "" {
					continue
				}
				if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := limitReads(queue, split, os.WriteFile); !errors.Is(err, tc.err) {
				t.Errorf("limitReads = %v; want %v", err, tc.err)
			}
			for file, want := range map[string]string{"max_sectors_kb": tc.wantSectors, "read_ahead_kb": tc.wantAhead} {
				got, _ := os.ReadFile(filepath.Join(queue, file))
				if strings.TrimSuffix(string(got), "\n") != want {
					t.Errorf("%s = %q; want %s", file, got, want)
				}
			}
		})
	}
}

// A kernel that takes a number and keeps another one is not believed.
func TestLimitReadsReadsBack(t *testing.T) {
	for _, stubborn := range []string{"max_sectors_kb", "read_ahead_kb"} {
		queue := t.TempDir()
		for _, name := range []string{"max_sectors_kb", "read_ahead_kb"} {
			if err := os.WriteFile(filepath.Join(queue, name), []byte("1280\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write := func(path string, data []byte, mode os.FileMode) error {
			if filepath.Base(path) == stubborn {
				return nil
			}
			return os.WriteFile(path, data, mode)
		}
		if err := limitReads(queue, filepath.Join(queue, "absent"), write); !errors.Is(err, errLimit) {
			t.Errorf("%s: limitReads = %v; want errLimit", stubborn, err)
		}
	}
}
