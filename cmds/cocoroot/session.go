package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"cocoroot/initramfs/release"
	"cocoroot/initramfs/release/session"
)

// sessionOptions are the options of the verb as they were given.
type sessionOptions struct {
	output
	policy               session.Policy
	ca, root, generation string
}

func (a *app) secretSession() *cobra.Command {
	o := sessionOptions{policy: session.Strict}
	c := verb("session CERTIFICATES… -o NAME", "start a session with a platform, which makes transport keys",
		"  cocoroot secret session platform.cert -o vm --generation Milan", takes(1, many, "the platform's certificates"))
	flags := c.Flags()
	o.register(c, "begin of the names of the files: NAME_tik.bin, NAME_tek.bin (both 0600), NAME_session.b64, NAME_godh.b64")
	option(c, &o.policy, "policy", "the guest's policy (default: 0x7, which is NODBG, NOKS and ES)", session.ParsePolicy)
	flags.StringVar(&o.ca, "amd-ca", "", "AMD's ASK and ARK, such as ask_ark_rome.cert; Milan, Genoa and Turin need none")
	flags.StringVar(&o.root, "amd-root", "", "also believe the root key with this SHA-256 of its SubjectPublicKeyInfo, in hex")
	flags.StringVar(&o.generation, "generation", "", "accept platforms of this generation only: Rome, Milan, Genoa, Turin, or Naples, which nothing else accepts")
	choices(c, "generation", "Rome", "Milan", "Genoa", "Turin", "Naples")
	c.RunE = func(_ *cobra.Command, args []string) error { return a.startSession(args, o) }
	return c
}

func (a *app) startSession(certificates []string, o sessionOptions) error {
	pdh, found, err := release.VerifyPlatform(certificates, o.ca, o.root)
	if err != nil {
		return err
	}
	if err := release.CheckGeneration(found, o.generation); err != nil {
		return err
	}
	if !o.policy.Has(session.Strict) {
		a.warn("the policy %s protects less than %s", o.policy, session.Strict)
	}
	if err := release.WriteSession(pdh, o.policy, o.path, o.force); err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "platform: genuine, up to AMD's root of %s\npolicy: %s\n", found, o.policy)
	fmt.Fprintf(a.stdout, "%[1]s_session.b64, %[1]s_godh.b64: for the host, to launch the guest with\n", o.path)
	fmt.Fprintf(a.stdout, "%[1]s_tik.bin, %[1]s_tek.bin: only for you; keep them secret\n", o.path)
	return nil
}
