package kmod

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// FuzzIndex feeds any text as the files that depmod writes. Whatever is
// accepted gives an order without gaps: no module before what it needs, none
// twice, none of the host's devices.
func FuzzIndex(f *testing.F) {
	tree := kernel() // TestChoose shows that it reaches every parser
	text := func(name string) string { return string(tree[name].Data) }
	f.Add(text("modules.dep"), text("modules.alias"), text("modules.softdep"), text("modules.builtin"), text("modules.builtin.modinfo"))
	f.Add("kernel/a.ko: kernel/b.ko\nkernel/b.ko: kernel/a.ko\n", "alias crypto-aes a\n", "softdep a pre: b post: a\n", "", "")
	f.Add("a.ko.xz:\n", "#\n", "softdep a post: a pre:\n", "kernel/a.ko\n", "a.alias=b\x00")
	f.Fuzz(func(t *testing.T, dep, alias, softdep, builtin, modinfo string) {
		x, err := readIndex(fstest.MapFS{
			"modules.dep": {Data: []byte(dep)}, "modules.alias": {Data: []byte(alias)}, "modules.softdep": {Data: []byte(softdep)},
			"modules.builtin": {Data: []byte(builtin)}, "modules.builtin.modinfo": {Data: []byte(modinfo)},
		})
		if err != nil {
			return
		}
		// The names of a kernel seldom come by chance: all modules are asked for.
		o := order{index: x, done: make(map[string]bool)}
		for name := range x.modules {
			if err := o.add([]string{name}); err != nil {
				return
			}
		}
		seen := make(map[string]bool)
		for _, name := range o.list {
			if seen[name] {
				t.Fatalf("%s appears twice in %v", name, o.list)
			}
			if i := slices.IndexFunc(x.modules[name].needs, func(d string) bool { return !seen[d] }); i >= 0 {
				t.Fatalf("%s stands before %s in %v", name, x.modules[name].needs[i], o.list)
			}
			seen[name] = true
		}
		for name := range x.aliases {
			names, _ := x.resolve(name)
			for _, n := range names {
				if strings.HasPrefix(x.modules[n].file, "kernel/drivers/crypto/") && normal(n) != name {
					t.Fatalf("%s stands for %s, a device of the host's", n, name)
				}
			}
		}
	})
}

// TestFuzzIndexSeeds shows that the first seed is read, aliases included.
func TestFuzzIndexSeeds(t *testing.T) {
	x, err := readIndex(kernel())
	if err != nil || len(x.modules) < 2 || len(x.aliases) == 0 {
		t.Errorf("readIndex = %d modules, %d aliases, %v", len(x.modules), len(x.aliases), err)
	}
}
