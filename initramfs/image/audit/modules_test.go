package audit

import (
	"io/fs"
	"testing"
	"testing/fstest"
)

func TestModules(t *testing.T) {
	for name, tc := range map[string]struct {
		fs   fstest.MapFS
		want bool
	}{
		"none":       {tree(map[string]string{"sbin/init": "x"}), false},
		"empty":      {fstest.MapFS{"lib/modules": {Mode: fs.ModeDir | 0o755}}, false},
		"in lib":     {tree(map[string]string{"lib/modules/6.1.0/kernel/a.ko": "x"}), true},
		"in usr/lib": {tree(map[string]string{"usr/lib/modules/6.1.0/modules.dep": "x"}), true},
		"by a link":  {tree(map[string]string{"lib": "-> usr/lib", "usr/lib/modules/6.1.0/a.ko.xz": "x"}), true},
		"a loop":     {tree(map[string]string{"lib": "-> lib"}), false},
		"a file":     {tree(map[string]string{"lib/modules": "x"}), false},
	} {
		if _, got, err := Check(shown(t, tc.fs), "/sbin/init", ""); got != tc.want || err != nil {
			t.Errorf("%s: hasModules = %t, %v; want %t", name, got, err, tc.want)
		}
	}
}
