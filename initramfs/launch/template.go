package launch

import (
	"bytes"
	"cmp"
	"encoding/xml"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"text/template"
	"unicode/utf8"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/measure"
	"cocoroot/initramfs/measure/ovmf"
)

// fill fills in a file of cocoroot/templates.
func fill(templates fs.FS, name string, data any) ([]byte, error) {
	t, err := template.New(name).Funcs(template.FuncMap{
		"xml":    xmlText,
		"hex":    func(n uint64) string { return fmt.Sprintf("%#x", n) },
		"letter": letter,
		"kind": func(path string) string { // of a disk
			if strings.HasPrefix(path, "/dev/") {
				return "block"
			}
			return "file"
		},
		"upper":  func(m Mode) string { return strings.ToUpper(string(m)) },
		"option": func(word string) bool { return strings.HasPrefix(word, "-") },
		"word":   fault.ShellWord,
	}).ParseFS(templates, "launch/"+name)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = t.Execute(&b, data)
	if e, ok := errors.AsType[template.ExecError](err); ok {
		err = cmp.Or(errors.Unwrap(e.Err), err) // without the template's own places
	}
	return b.Bytes(), err
}

// Script returns a shell script that starts the guest of cfg on SEV hardware,
// with the command that Run would start a QEMU of that release with. The files
// need not be here.
func Script(templates fs.FS, cfg Config, v Version) ([]byte, error) {
	cfg, err := cfg.ready(v)
	if err != nil {
		return nil, err
	}
	return fill(templates, "qemu.tmpl", struct {
		Config
		SEV
		Command []string
	}{cfg, *cfg.SEV, cfg.command(v, ovmf.Firmware{})})
}

// overhead is what QEMU may need beside the guest's memory, in MiB.
const overhead = 1024

// Domain is what libvirt's description of a guest takes beside a Config.
type Domain struct {
	Config
	Name                    string // of the domain
	SessionText, DHCertText string // what the session's files hold, in base64
}

// Libvirt returns the description of a domain.
func Libvirt(templates fs.FS, d Domain) ([]byte, error) {
	if d.Name == "" || strings.ContainsAny(d.Name, "/\n") {
		return nil, fmt.Errorf("%w: %.80q is not the name of a domain", ErrConfig, d.Name)
	}
	if d.SEV.VMType != measure.Legacy {
		return nil, fmt.Errorf("%w: libvirt has no way to ask for the VM type init2", ErrConfig)
	}
	return fill(templates, "libvirt.xml", struct {
		Domain
		SEV
		HardLimit int // MiB
	}{d, *d.SEV, d.Memory + overhead})
}

// xmlText escapes text for an element or an attribute. What XML cannot hold is
// an error, for EscapeText would replace it.
func xmlText(s string) (string, error) {
	for i, r := range s {
		_, size := utf8.DecodeRuneInString(s[i:])
		if r < ' ' || r == utf8.RuneError && size == 1 || r == 0xfffe || r == 0xffff {
			return "", fmt.Errorf("a control character, or no UTF-8, which XML cannot hold: %.40q", s)
		}
	}
	var b strings.Builder
	err := xml.EscapeText(&b, []byte(s))
	return b.String(), err
}
