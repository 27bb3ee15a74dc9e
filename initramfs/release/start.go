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

// VerifyPlatform reads the certificates and verifies their chain.
func VerifyPlatform(roots sevcert.Roots, paths []string, ca string) (*sevcert.Certificate, string, error) {
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
	pdh, generation, err := bundle.Verify(roots)
	switch {
	case errors.Is(err, sevcert.ErrCEK):
		return nil, "", fault.Hintf(err, "get the signed one from https://kdsintf.amd.com/cek/id/ID, where ID is the platform's cpu0-id, and name its file too")
	case errors.Is(err, sevcert.ErrMissing):
		return nil, "", fault.Hintf(err, "sevctl export, cocoroot release platform, or QEMU's pdh and cert-chain have the platform's; AMD's go to --amd-ca")
	case errors.Is(err, sevcert.ErrRoot):
		return nil, "", fault.Hintf(err, "if you know this key to be AMD's, --amd-root believes it")
	case errors.Is(err, sevcert.ErrSignature) && ca == "":
		return nil, "", fault.Hintf(err, "for Naples and Rome, and generations after Turin, AMD's certificates are named with --amd-ca")
	}
	return pdh, generation, err
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
			"whoever has one such key can play the platform; --generation Naples accepts that")
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

// TrustedRoots returns AMD's roots and the one that the owner adds.
func TrustedRoots(added string) (sevcert.Roots, error) {
	roots, err := sevcert.AMDRoots()
	if err != nil || added == "" {
		return roots, err
	}
	f, err := sevcert.ParseFingerprint(added)
	if err != nil {
		return roots, fault.Usagef("--amd-root: %w", err)
	}
	roots.Trust(f)
	return roots, nil
}
