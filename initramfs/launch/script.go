package launch

import (
	"fmt"
	"strings"

	"cocoroot/initramfs/measure/ovmf"
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
	fmt.Fprintf(&b, scriptHead, strings.ToUpper(string(cfg.SEV.Mode)), cfg.SEV.notes())
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
func (s SEV) notes() string {
	if s.Mode == ModeSNP {
		return `# QEMU 9.1 and Linux 6.11 or later. SEV-SNP has no launch secret: without an
# SVSM that brings the key, the guest ends with SECRET-NONE.
`
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
