package launch

import (
	"encoding/xml"
	"fmt"
	"io/fs"
	"strings"
	"text/template"
	"unicode/utf8"

	"cocoroot/initramfs/measure"
)

// overhead is what QEMU may need beside the guest's memory, in MiB.
const overhead = 1024

// Domain is what libvirt's description of a guest takes beside a Config.
type Domain struct {
	Config
	Name                    string // of the domain
	SessionText, DHCertText string // what the session's files hold, in base64
}

// Libvirt fills in the description of a domain, from the files of
// cocoroot/templates.
func Libvirt(templates fs.FS, d Domain) ([]byte, error) {
	if d.Name == "" || strings.ContainsAny(d.Name, "/\n") {
		return nil, fmt.Errorf("%w: %.80q is no name of a domain", ErrConfig, d.Name)
	}
	if d.SEV.VMType != measure.Legacy {
		return nil, fmt.Errorf("%w: libvirt has no way to ask for the VM type init2", ErrConfig)
	}
	t, err := template.New("libvirt.xml").Funcs(template.FuncMap{
		"xml":    xmlText,
		"hex":    func(n uint64) string { return fmt.Sprintf("%#x", n) },
		"letter": letter,
		"kind": func(path string) string { // of a disk
			if strings.HasPrefix(path, "/dev/") {
				return "block"
			}
			return "file"
		},
	}).ParseFS(templates, "launch/libvirt.xml")
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	err = t.Execute(&b, struct {
		Domain
		SEV
		HardLimit int // MiB
	}{d, *d.SEV, d.Memory + overhead})
	return []byte(b.String()), err
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
