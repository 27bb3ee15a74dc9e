package policy

import (
	"fmt"
	"strings"

	"cocoroot/unlock/efi"
)

// Credential is a secret entry that the image's systemd has as a credential, for
// the units whose LoadCredential= names it.
type Credential struct {
	// Name is 1 to 255 letters, digits and ._-, without a dot in front. Of the names
	// that systemd takes (credential_name_valid in its src/shared/creds-util.c: any
	// printable ASCII but : and /), these need no quotes on the command line.
	Name string
	GUID efi.GUID
}

// maxCredential is the longest name, bytes (FDNAME_MAX in systemd's
// src/basic/fd-util.h).
const maxCredential = 255

// ParseCredential reads the value of cocoroot.credential=: NAME=GUID.
func ParseCredential(s string) (Credential, error) {
	name, text, ok := strings.Cut(s, "=")
	if !ok || !isName(name, maxCredential) {
		return Credential{}, fmt.Errorf("%.80q is not NAME=GUID, with a name of letters, digits and ._-", s)
	}
	g, err := parseGUID(text)
	return Credential{name, g}, err
}

// String returns the form that ParseCredential reads.
func (c Credential) String() string { return c.Name + "=" + c.GUID.String() }

// checkCredentials checks what the credentials have to have together.
func (p *Policy) checkCredentials() error {
	for i, c := range p.Credentials {
		if p.forInit(c.GUID) {
			return fmt.Errorf("%w: the credential %s is an entry that is for init only", ErrMalformed, c)
		}
		for _, other := range p.Credentials[:i] {
			if c.Name == other.Name || c.GUID == other.GUID {
				return fmt.Errorf("%w: the credentials %s and %s have one name or one entry", ErrMalformed, other, c)
			}
		}
	}
	return nil
}
