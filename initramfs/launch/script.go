package launch

import (
	"fmt"
	"strings"

	"cocoroot/initramfs/measure/ovmf"
	"cocoroot/unlock/policy"
)

// Script returns a shell script that starts the guest of cfg on SEV hardware,
// with the command that Run would start a QEMU of that release with. The files
// need not be here.
func Script(cfg Config, v Version) (string, error) {
	cfg, err := cfg.ready(v)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, scriptHead, strings.ToUpper(string(cfg.SEV.Mode)), cfg.notes())
	b.WriteString("exec")
	for _, w := range cfg.command(v, ovmf.Firmware{}) {
		if strings.HasPrefix(w, "-") {
			b.WriteString(" \\\n ")
		}
		b.WriteString(" " + ShellWord(w))
	}
	b.WriteByte('\n')
	return b.String(), nil
}

// ScriptStart is how a script begins.
const ScriptStart = "#!/bin/sh\n# Starts the guest under QEMU with "

const scriptHead = ScriptStart + `%s. On the host, as a user who may open
# /dev/kvm and /dev/sev, and lock the guest's memory (ulimit -l).
#
%s#
# After a reboot the guest has no secret: QEMU ends, and this is a new launch.
`

// notes says, as comments of a script, what is particular to the mode.
func (c Config) notes() string {
	s := c.SEV
	if s.Mode == ModeSNP {
		return "# QEMU 9.1 and Linux 6.11 or later.\n" + c.snpNotes()
	}
	text := "# QEMU 7.2 or later.\n"
	if s.Mode == ModeSEV {
		text = "# QEMU 7.2 or later. Memory is encrypted; the host sees the registers.\n"
	}
	return text + `#
# The guest waits (-S) for its secret, through the socket after "path=":
#   here            cocoroot release collect --qmp SOCKET -o report.json
#   at the owner's  cocoroot release verify report.json …
#   here            cocoroot release inject … --qmp SOCKET --cont
# Whoever can open that socket controls the guest: its folder has mode 0700.
`
}

// snpNotes says how the guest gets its secrets.
func (c Config) snpNotes() string {
	switch {
	case c.AsksAtSocket():
		return `# The guest asks for its secrets, at the socket after "id=owner":
#   at the owner's  cocoroot release challenge -o challenge
#   here            cocoroot release collect --channel SOCKET --challenge challenge -o report.json
#   at the owner's  cocoroot release verify report.json …
#   here            cocoroot release inject … --channel SOCKET
# Whoever can open that socket can keep the guest waiting: its folder has mode 0700.
`
	case c.Channel.Kind == policy.TCP:
		return "# The guest asks for its secrets at " + c.Channel.String() + `. Add a network card for it here:
# the command has none.
`
	case c.Channel.Kind == policy.Vsock:
		return "# The guest asks for its secrets at " + c.Channel.String() + `. Add its device here:
#   -device vhost-vsock-pci,disable-legacy=on,iommu_platform=on,guest-cid=N
`
	}
	return `# SEV-SNP has no launch secret: without cocoroot.owner= in its line, the guest ends
# with SECRET-NONE.
`
}

// ShellWords quotes words for a shell.
func ShellWords(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = ShellWord(w)
	}
	return strings.Join(quoted, " ")
}

// ShellWord quotes a word for a shell, unless all of its characters are known
// to be plain.
func ShellWord(w string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_@%+=:,./-", r)
	}
	if w != "" && !strings.ContainsFunc(w, func(r rune) bool { return !plain(r) }) {
		return w
	}
	return "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
}
