package kmod

import (
	"fmt"
	"slices"
	"strings"
)

// guest returns the names of the modules that init loads, in load order, and
// what the kernel lacks.
func (x *index) guest(g Guest) ([]string, []Lack, error) {
	o := order{index: x, done: make(map[string]bool)}
	var lacks []Lack
	for _, n := range needs(g) {
		names, ok := x.resolve(n.name)
		if !ok && n.required {
			return nil, nil, fmt.Errorf("%s: %w", n.name, ErrMissing)
		}
		if !ok && n.lack != "" {
			lacks = append(lacks, Lack{n.name, n.lack})
		}
		if err := o.add(names); err != nil {
			return nil, nil, err
		}
	}
	return o.list, lacks, nil
}

// forSomeCPUs reports whether a module is for CPUs that have certain
// instructions, beside another that does the same anywhere: aesni_intel,
// sha256_ssse3, crc32c_intel. On any other CPU it fails with ENODEV.
func forSomeCPUs(file string) bool { return strings.HasPrefix(file, "kernel/arch/") }

// mayFindNothing reports whether a module may fail with ENODEV and the boot go on:
// one for some CPUs, and sev_guest outside of a SEV-SNP guest, which then says so
// when it is to show a report.
func mayFindNothing(file string) bool { return forSomeCPUs(file) || nameOf(file) == sevGuest }

// fromHost reports whether a module is for a device that does cryptography.
// The kernel would prefer it to its own code; but the device is the host's,
// and would see the key (virtio_crypto).
func fromHost(file string) bool { return strings.HasPrefix(file, "kernel/drivers/crypto/") }

// resolve returns the modules that stand for a name, as modprobe would find
// them: a module's own name, or else every module that has it as an alias;
// those for all CPUs first. ok is false when there is none and the kernel has
// nothing built in either.
func (x *index) resolve(name string) (names []string, ok bool) {
	name = normal(name)
	if x.modules[name] != nil {
		return []string{name}, true
	}
	var special []string
	for _, m := range x.aliases[name] {
		switch found := x.modules[m]; {
		case found == nil || fromHost(found.file):
		case forSomeCPUs(found.file):
			special = append(special, m)
		default:
			names = append(names, m)
		}
	}
	slices.Sort(names)
	slices.Sort(special)
	names = append(names, special...)
	return names, len(names) > 0 || x.builtin[name]
}

// order puts modules into load order.
type order struct {
	*index
	done  map[string]bool // false: what it needs is being added
	list  []string
	later []string // whose turn has not come for want of a module in progress
}

// add adds modules that nothing yet depends on.
func (o *order) add(names []string) error {
	o.later = append(o.later, names...)
	for len(o.later) > 0 {
		name := o.later[0]
		o.later = o.later[1:]
		if err := o.visit(name); err != nil {
			return err
		}
	}
	return nil
}

// busy reports whether what a module needs is being added.
func (o *order) busy(name string) bool {
	done, begun := o.done[name]
	return begun && !done
}

// visit adds a module: what it softly wants before it, what it needs, itself,
// and what it wants after it.
func (o *order) visit(name string) error {
	if o.done[name] {
		return nil
	}
	if o.busy(name) {
		return fmt.Errorf("modules.dep: %w: %s needs itself", ErrIndex, name)
	}
	o.done[name] = false
	m := o.modules[name]
	if err := o.wish(m.pre); err != nil {
		return err
	}
	for _, dep := range slices.Backward(m.needs) { // modules.dep has the deepest last
		if err := o.visit(dep); err != nil {
			return err
		}
	}
	o.done[name] = true
	o.list = append(o.list, name)
	return o.wish(m.post)
}

// wish adds soft dependencies, where there are such modules. One that needs a
// module in progress waits until that is added: crypto_algapi wishes for
// cryptomgr before it, which needs crypto_algapi.
func (o *order) wish(wanted []string) error {
	for _, w := range wanted {
		names, _ := o.resolve(w)
		for _, name := range names {
			if o.busy(name) || slices.ContainsFunc(o.modules[name].needs, o.busy) {
				o.later = append(o.later, name)
			} else if err := o.visit(name); err != nil {
				return err
			}
		}
	}
	return nil
}
