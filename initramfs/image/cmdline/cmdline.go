// Package cmdline writes the kernel command line that is measured.
//
// Every word of it is there to close something or to make a failure end the
// guest; see the list in Build. The line says what may boot. It does not keep
// the image's own programs from listening to the host.
package cmdline

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/files"
	"cocoroot/unlock/policy"
)

// MaxLength is the longest line in bytes that is written: the kernel cuts at
// 2048, and OVMF puts "initrd=initrd " before it.
const MaxLength = 2000

// Options is what a line has beside its policy.
type Options struct {
	// NoACPI keeps the kernel from reading the host's ACPI tables, and so
	// from running the code in them. The guest then has one CPU, and cannot
	// power off: a failure that would have ends in a reset.
	NoACPI bool
	// Login leaves out the words that keep systemd from logins on the
	// console, for a root that is meant to have one.
	Login bool
	// Append is text for the end of the line.
	Append string
}

// fixed is what every line begins with.
var fixed = []string{
	"console=ttyS0",
	// A panic, which cannot wipe, must not hang with the secret in memory.
	"panic=-1", "oops=panic",
	// Freed memory holds no secrets, and new memory nothing at all, whatever
	// the kernel's defaults are.
	"init_on_free=1", "init_on_alloc=1",
	// The host is the boot loader; its randomness does not count.
	"random.trust_bootloader=off",
	// Kernel messages on the console are for those who ask: --append loglevel=7.
	"quiet",
	// systemd takes credentials, root and swap from places that the host fills.
	"systemd.import_credentials=no", "systemd.gpt_auto=no", "systemd.swap=no",
	// From version 256 on, systemd starts sshd for the host, on vsock.
	"systemd.ssh_auto=no",
}

// noLogin keeps systemd's logins, questions and shells off the console, which
// is the host's.
var noLogin = []string{
	"systemd.getty_auto=no", "systemd.firstboot=no", "systemd.mask=getty@.service",
	"systemd.mask=emergency.service", "systemd.mask=rescue.service",
}

// Build returns the line for a policy. It is read back as the guest will read
// it: what the guest would refuse, or understand in another way, is an error
// here.
func Build(p policy.Policy, o Options) (string, error) {
	words := append([]string{}, fixed...)
	if !o.Login {
		words = append(words, noLogin...)
	}
	if o.NoACPI {
		if strings.Contains(o.Append, "acpi=") { // the last one counts
			return "", errors.New("cannot write the command line: the appended text has its own acpi=")
		}
		words = append(words, "acpi=off")
		if p.OnFail == policy.PowerOff {
			p.OnFail = policy.Reboot
		}
	}
	words = append(words, "rootfstype="+string(p.FSType))
	if p.Init != policy.Defaults().Init {
		words = append(words, "init="+p.Init)
	}
	words = append(words, ours(p)...)
	line := strings.Join(words, " ")
	if o.Append != "" {
		line += " " + o.Append
	}
	if strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r >= 0x7f }) {
		return "", errors.New("cannot write the command line: its text has a character that is not allowed there")
	}
	if len(line) > MaxLength {
		return "", fmt.Errorf("cannot write the command line: it is too long: %d bytes, %d are allowed", len(line), MaxLength)
	}
	read, err := policy.Parse(line)
	if err != nil {
		return "", fmt.Errorf("cannot write the command line: the guest would refuse it: %w", err)
	}
	if read.FSType != p.FSType || !reflect.DeepEqual(read.Image, p.Image) {
		return "", fmt.Errorf("cannot write the command line: the appended text changes the image's type")
	}
	if p.Init != policy.Defaults().Init && read.Init != p.Init {
		return "", errors.New("cannot write the command line: it would start another init than the one that was asked for")
	}
	return line, nil
}

// ReadFile reads a command-line file: one line, whose newline is not part of it.
// The line is sent to the host and printed, so another file, which may be a key,
// is an error that shows nothing of it.
func ReadFile(path string) (string, error) {
	b, err := files.Read(path, policy.MaxLength+1)
	if err != nil {
		return "", fmt.Errorf("cannot use the command line: %w", err)
	}
	line := strings.TrimSuffix(string(b), "\n")
	if line != "" && !slices.ContainsFunc(strings.Fields(line), isParameter) {
		return "", fault.Hintf(fmt.Errorf("cannot use %s: it is not a kernel command line", path), "cocoroot seal writes IMAGE.cmdline")
	}
	return line, nil
}

// isParameter reports whether a word is of the form name=value, which a key in
// hex, in base64 or in words never is.
func isParameter(word string) bool {
	name, value, ok := strings.Cut(word, "=")
	odd := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("_.-", r)
	}
	return ok && name != "" && !strings.ContainsFunc(name, odd) && strings.Trim(value, "=") != ""
}

// ReadPolicy is ReadFile for a line that the guest accepts, which it returns as
// the guest reads it, too.
func ReadPolicy(path string) (string, policy.Policy, error) {
	line, err := ReadFile(path)
	if err != nil {
		return "", policy.Policy{}, err
	}
	p, err := policy.Parse(line)
	if err != nil {
		return "", p, fmt.Errorf("cannot use %s: the guest would refuse the line: %w", path, err)
	}
	return line, p, nil
}

// ours returns the parameters of the policy in the form that policy.Parse
// reads, without those that have their default value.
func ours(p policy.Policy) []string {
	d := policy.Defaults()
	out := []string{
		policy.Prefix + "disk=" + p.Disk.String(),
		policy.Prefix + "image=" + p.Image.String(),
	}
	add := func(name, value, def string) {
		if value != def {
			out = append(out, policy.Prefix+name+"="+value)
		}
	}
	add("key", p.Key.String(), d.Key.String())
	add("overlay", p.Overlay.String(), d.Overlay.String())
	for _, state := range p.States {
		add("state", state.String(), "")
	}
	if len(p.States) > 0 {
		add("state-key", p.StateKey.String(), "")
	}
	for _, c := range p.Credentials {
		add("credential", c.String(), "")
	}
	if p.Release.Asks() {
		out = append(out, policy.Prefix+"owner="+p.Release.Owner.String(), policy.Prefix+"channel="+p.Release.Channel.String())
	}
	add("onfail", string(p.OnFail), string(d.OnFail))
	add("keep", Keep(p.Keep), Keep(d.Keep))
	add("timeout", p.Timeout.String(), d.Timeout.String())
	add("modules", string(p.Modules), string(d.Modules))
	if p.Console {
		out = append(out, policy.Prefix+"stdin=console")
	}
	return out
}

// Keep returns the value of cocoroot.keep=.
func Keep(k policy.Keep) string {
	if k.All {
		return "all"
	}
	if len(k.GUIDs) == 0 {
		return "none"
	}
	text := make([]string, len(k.GUIDs))
	for i, g := range k.GUIDs {
		text[i] = g.String()
	}
	return strings.Join(text, ",")
}
