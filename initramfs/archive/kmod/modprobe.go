package kmod

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"strings"
)

// tree is the modules of one kernel.
type tree struct {
	fs.FS
	above   string // the folder above lib/modules, absolute; "" is the root
	version string
}

// resolve returns the files of the modules that stand for a name, in the order in
// which modprobe would load them with all that they need: the module with that name,
// or all that have it as an alias. There are none where it is built in; ok is false
// where the kernel does not have it at all.
func (t tree) resolve(name string) (files []string, ok bool, err error) {
	names, err := t.modprobe("--resolve-alias", name)
	if err != nil || len(names) == 0 {
		return nil, false, err
	}
	for _, module := range names {
		lines, err := t.modprobe("--show-depends", module)
		if err != nil {
			return nil, false, err
		}
		var loads []string
		for _, line := range lines {
			if line, insmod := strings.CutPrefix(line, "insmod "); insmod {
				file, found := strings.CutPrefix(line, t.above+"/lib/modules/"+t.version+"/")
				if file, _, _ = strings.Cut(file, " "); !found || !fs.ValidPath(file) { // parameters may follow
					return nil, false, fmt.Errorf("%w: %.128q is not in it", ErrIndex, line)
				}
				loads = append(loads, file)
			}
		}
		if len(loads) > 0 && fromHost(loads[len(loads)-1]) && module != normal(name) {
			continue
		}
		files, ok = append(files, loads...), true
	}
	if !ok { // modprobe does not say what is built in where there are modules
		ok, err = t.builtIn(name)
	}
	return files, ok, err
}

// modprobe returns the lines of its answer, none for a name that the kernel does not
// have. The configuration of this machine has no say.
func (t tree) modprobe(question, name string) ([]string, error) {
	program, err := exec.LookPath("modprobe")
	if err != nil {
		program = "/usr/sbin/modprobe" // not on a user's PATH
	}
	cmd := exec.Command(program, "--quiet", "-C", os.DevNull, "-d", t.above, "-S", t.version, question, name)
	cmd.Env = append(os.Environ(), "MODPROBE_OPTIONS=", "LC_ALL=C")
	var words bytes.Buffer
	cmd.Stderr = &words
	out, err := cmd.Output()
	switch exit := (*exec.ExitError)(nil); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, errors.New("a program is not installed: modprobe (Debian: kmod)")
	case errors.As(err, &exit) && words.Len() == 0:
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("%w: modprobe: %w: %.256s", ErrIndex, err, bytes.TrimSpace(words.Bytes()))
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n"), nil
}

// builtIn reports whether a module in the kernel has an alias. The file has
// "MODULE.KEY=VALUE", each ended by a NUL.
func (t tree) builtIn(alias string) (bool, error) {
	text, err := fs.ReadFile(t, "modules.builtin.modinfo")
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return bytes.Contains(text, []byte(".alias="+alias+"\x00")), err
}

// fromHost reports whether a module is for a device that does cryptography.
// The kernel would prefer it to its own code; but the device is the host's,
// and would see the key (virtio_crypto).
func fromHost(file string) bool { return strings.HasPrefix(file, "kernel/drivers/crypto/") }

// mayFindNothing reports whether a module may fail with ENODEV and the boot go on:
// one for CPUs that have certain instructions, beside another that does the same
// anywhere (aesni_intel, crc32c_intel), and sev_guest outside of an SEV-SNP guest,
// which then says so when it is to show a report.
func mayFindNothing(file string) bool {
	return strings.HasPrefix(file, "kernel/arch/") || nameOf(file) == sevGuest
}

func normal(name string) string { return strings.ReplaceAll(name, "-", "_") }

// nameOf returns the name of the module in a file.
func nameOf(file string) string {
	base, _, _ := strings.Cut(path.Base(file), ".ko")
	return normal(base)
}
