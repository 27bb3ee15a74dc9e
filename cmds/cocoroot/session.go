package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/release"
	"cocoroot/initramfs/release/session"
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
	roots, err := release.TrustedRoots(o.root)
	if err != nil {
		return err
	}
	pdh, found, err := release.VerifyPlatform(roots, certificates, o.ca)
	if err != nil {
		return err
	}
	if err := release.CheckGeneration(found, o.generation); err != nil {
		return err
	}
	if !policy.Has(session.Strict) {
		a.warn("the policy %s protects less than %s", policy, session.Strict)
	}
	if err := release.WriteSession(pdh, policy, o.name, o.force); err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "platform: genuine, up to AMD's root of %s\npolicy: %s\n", found, policy)
	fmt.Fprintf(a.stdout, "%[1]s_session.b64, %[1]s_godh.b64: for the host, to launch the guest with\n", o.name)
	fmt.Fprintf(a.stdout, "%[1]s_tik.bin, %[1]s_tek.bin: for you alone; keep them secret\n", o.name)
	return nil
}
