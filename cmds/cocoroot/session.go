package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/files"
	"cocoroot/initramfs/release/session"
	"cocoroot/initramfs/release/sevcert"
)

// sessionOptions are the options of the verb as they were given.
type sessionOptions struct {
	name, policy, ca, root, generation string
	force                              bool
}

func (a *app) secretSession() *cobra.Command {
	var o sessionOptions
	c := verb("session CERTIFICATES… -o NAME", "start a session with a platform: transport keys, session blob, certificate",
		"  cocoroot secret session platform.cert -o vm --generation Milan", someArgs("the platform's certificates"))
	flags := c.Flags()
	flags.StringVarP(&o.name, "output", "o", "", "begin of the names of the files: NAME_tik.bin, NAME_tek.bin (both 0600), NAME_session.b64, NAME_godh.b64")
	flags.StringVar(&o.policy, "policy", "0x7", "the guest's policy; 0x7 is NODBG, NOKS and ES")
	flags.StringVar(&o.ca, "amd-ca", "", "AMD's ASK and ARK, such as ask_ark_rome.cert; Milan, Genoa and Turin need none")
	flags.StringVar(&o.root, "amd-root", "", "also believe the root key with this SHA-256 of its SubjectPublicKeyInfo, in hex")
	flags.StringVar(&o.generation, "generation", "", "accept platforms of this generation only: Rome, Milan, Genoa, Turin, or Naples, which nothing else accepts")
	flags.BoolVar(&o.force, "force", false, "replace existing files")
	need(c, "output")
	choices(c, "generation", "Rome", "Milan", "Genoa", "Turin", "Naples")
	c.RunE = func(_ *cobra.Command, args []string) error { return a.startSession(args, o) }
	return c
}

func (a *app) startSession(certificates []string, o sessionOptions) error {
	policy, err := session.ParsePolicy(o.policy)
	if err != nil {
		return fault.Usagef("--policy: %w", err)
	}
	roots, err := trustedRoots(o.root)
	if err != nil {
		return err
	}
	pdh, found, err := verifyPlatform(roots, certificates, o.ca)
	if err != nil {
		return err
	}
	if err := checkGeneration(found, o.generation); err != nil {
		return err
	}
	if !policy.Has(session.Strict) {
		a.warn("the policy %s protects less than %s", policy, session.Strict)
	}
	if err := writeSession(pdh, policy, o.name, o.force); err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "platform: genuine, up to AMD's root of %s\npolicy: %s\n", found, policy)
	fmt.Fprintf(a.stdout, "%[1]s_session.b64, %[1]s_godh.b64: for the host, to launch the guest with\n", o.name)
	fmt.Fprintf(a.stdout, "%[1]s_tik.bin, %[1]s_tek.bin: for you alone; keep them secret\n", o.name)
	return nil
}

// trustedRoots returns AMD's roots and the one that the owner adds.
func trustedRoots(added string) (sevcert.Roots, error) {
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

// verifyPlatform reads the certificates and verifies their chain.
func verifyPlatform(roots sevcert.Roots, paths []string, ca string) (*sevcert.Certificate, string, error) {
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

// checkGeneration refuses a platform of another generation than the one wanted.
// It is the host who chooses which chip's certificates he shows, and one whose
// keys he has is as good to him as any: so a generation that lost its keys must
// be asked for.
func checkGeneration(found, want string) error {
	switch {
	case want != "" && found != want:
		return fmt.Errorf("the platform is up to AMD's root of %s, and not of %s", found, want)
	case want == "" && found == sevcert.Naples:
		return fault.Hintf(errors.New("the platform is of Naples, whose chips' keys can be extracted"),
			"whoever has one such key can play the platform; --generation Naples accepts that")
	}
	return nil
}

// writeSession starts the session and writes its four files.
func writeSession(pdh *sevcert.Certificate, policy session.Policy, name string, force bool) error {
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
		files.Public(name+"_session.b64", inBase64(blob[:])),
		files.Public(name+"_godh.b64", inBase64(godh)))
}
