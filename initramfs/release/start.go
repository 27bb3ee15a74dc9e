package release

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/files"
	"cocoroot/initramfs/release/packet"
	"cocoroot/initramfs/release/session"
	"cocoroot/initramfs/release/sevcert"
)

// VerifyPlatform reads the certificates and verifies their chain up to AMD's roots,
// or to the one with the fingerprint root. It also returns the root's generation.
func VerifyPlatform(paths []string, ca, root string) (*sevcert.Certificate, string, error) {
	roots, err := sevcert.AMDRoots(root)
	if err != nil {
		return nil, "", err
	}
	if ca != "" {
		paths = append(paths, ca)
	}
	var bundle sevcert.Bundle
	for _, path := range paths {
		data, err := files.Read(path, sevcert.MaxFile)
		if err != nil {
			return nil, "", err
		}
		if err := bundle.Add(data); err != nil {
			return nil, "", fmt.Errorf("cannot read %s: %w", path, err)
		}
	}
	return bundle.Verify(roots)
}

// CheckGeneration refuses a platform of another generation than the one wanted.
// It is the host who chooses which chip's certificates he shows, and one whose
// keys he has is as good to him as any: so a generation that lost its keys must
// be asked for.
func CheckGeneration(found, want string) error {
	switch {
	case want != "" && found != want:
		return fmt.Errorf("the platform is up to AMD's root of %s, and not of %s", found, want)
	case want == "" && found == sevcert.Naples:
		return fault.Hintf(errors.New("the platform is of Naples, whose chips' keys can be extracted"),
			"whoever has one such key can pose as the platform; --generation Naples accepts that")
	}
	return nil
}

// WriteSession starts the session and writes its four files.
func WriteSession(pdh *sevcert.Certificate, policy session.Policy, name string, force bool) error {
	platform, err := pdh.ECDH()
	if err != nil {
		return err
	}
	keys, err := session.NewKeys()
	if err != nil {
		return err
	}
	defer keys.Close()
	blob, own, err := session.Start(platform, keys, policy)
	if err != nil {
		return err
	}
	godh, err := sevcert.Owner(own)
	if err != nil {
		return err
	}
	return files.Write(force,
		files.Secret(name+"_tik.bin", keys.TIK.Bytes()),
		files.Secret(name+"_tek.bin", keys.TEK.Bytes()),
		files.Public(name+"_session.b64", packet.Base64(blob[:])),
		files.Public(name+"_godh.b64", packet.Base64(godh)))
}

// maxSessionFile bounds a file of cocoroot secret session in bytes.
const maxSessionFile = 16 << 10

// ReadSession reads the files of a session, in base64 as they are. Other files,
// which may be secret, are refused.
func ReadSession(blobFile, certFile string) (blob, cert string, err error) {
	read := func(path string, check func([]byte) bool, what string) (string, error) {
		b, err := files.Read(path, maxSessionFile)
		if err != nil {
			return "", err
		}
		text := strings.TrimSpace(string(b))
		raw, err := base64.StdEncoding.Strict().DecodeString(text)
		if err != nil || strings.ContainsAny(text, "\r\n") || !check(raw) {
			return "", fault.Hintf(fmt.Errorf("cannot use %s: it is not %s", path, what), "cocoroot secret session writes NAME_session.b64 and NAME_godh.b64")
		}
		return text, nil
	}
	if blob, err = read(blobFile, func(b []byte) bool { return len(b) == session.BlobSize }, "a session blob in base64"); err != nil {
		return "", "", err
	}
	cert, err = read(certFile, func(b []byte) bool { _, err := sevcert.Parse(b); return err == nil }, "a certificate in base64")
	return blob, cert, err
}
