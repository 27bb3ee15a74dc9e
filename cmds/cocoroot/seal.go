package main

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/image/manifest"
	"cocoroot/initramfs/image/rootfs"
	"cocoroot/initramfs/image/seal"
	"cocoroot/initramfs/release/snp"
	"cocoroot/unlock/efi"
	"cocoroot/unlock/policy"
)

// sealOptions are the options of the verb as they were given.
type sealOptions struct {
	seal.Options
	launches
	json bool
}

func (a *app) seal() *cobra.Command {
	var o sealOptions
	o.Release.Channel = policy.Channel{Kind: policy.Serial, Name: "ttyS2"}
	c := verb("seal ROOTFS -o IMAGE [-- ARGUMENT…]", "make an encrypted, verifiable image of a root file system",
		"  cocoroot seal root/ -o image\n  docker save app | cocoroot seal - -o image --disk serial:root -- serve --port 80", sealArgs)
	c.Long = "ROOTFS is a folder, a tar, a container image, a disk image or a file system; -\nis standard input. A container image's program gets the arguments."
	flags := c.Flags()
	flags.StringVarP(&o.Image, "output", "o", "", "where to write the image")
	o.keyFlags(flags)
	flags.StringVar(&o.CmdlineOut, "cmdline-out", "", "where to write the command line (default: IMAGE.cmdline)")
	flags.StringVar(&o.ManifestOut, "manifest-out", "", "where to write the manifest (default: IMAGE.manifest.json)")
	o.rootFlags(flags)
	flags.StringVar(&o.Disk, "disk", "/dev/vda", "`DISK` where the guest finds the image: /dev/NAME, serial:NAME, PARTUUID=GUID or PARTLABEL=NAME")
	flags.StringVar(&o.Init, "init", "", "the image's program to start (default: /sbin/init; of a container image, what starts its program as it says)")
	flags.StringSliceVar(&o.Allow, "allow", nil, "seal the root even if the audit finds what has this `NAME`: "+strings.Join(seal.AuditNames(), ", "))
	flags.StringVar(&o.Line.Append, "append", "", "`TEXT` for the end of the command line")
	flags.BoolVar(&o.Line.NoACPI, "no-acpi", false, "for firmware that is not cocoroot's own, which never reads the host's ACPI tables: acpi=off on the command line keeps their code from running, and leaves the guest one CPU, and a reset where it would power off")
	option(c, &o.Release.Owner, "owner", "the owner's public `KEY` (NAME.pub): the guest, on SEV-SNP, asks for its secrets (default: they are injected, on SEV and SEV-ES)", snp.ReadPublic)
	option(c, &o.Release.Channel, "channel", "with --owner: the `CHANNEL` on which the guest asks: serial:ttyS2, virtio:NAME, tcp:ADDRESS:PORT or vsock:CID:PORT (default: serial:ttyS2)", policy.ParseChannel)
	o.diskFlags(c)
	repeated(c, &o.Credentials, "credentials", "`NAME=GUID`: a secret entry that the image's systemd gives to the units with LoadCredential=NAME; may be repeated", policy.ParseCredential)
	o.containerFlags(c)
	o.launches.register(c)
	flags.BoolVar(&o.Force, "force", false, "replace existing files")
	flags.BoolVar(&o.json, "json", false, "print the manifest; progress as JSON on standard error, one object a line")
	need(c, "output")
	choices(c, "fs", "squashfs", "erofs", "ext4")
	choices(c, "allow", seal.AuditNames()...)
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(o.States) == 0 && c.Flags().Changed("state-key") {
			return fault.Usagef("--state-key is for --state")
		}
		if !o.Release.Asks() {
			if c.Flags().Changed("channel") {
				return fault.Usagef("--channel is for --owner")
			}
			o.Release = policy.Release{}
		}
		o.Root, o.Container.Args = args[0], args[1:]
		if err := cmp.Or(o.launches.check(), o.Check(c.Flags().Changed)); err != nil {
			return err
		}
		o.Measure = o.digests
		return a.sealRoot(c.Context(), o)
	}
	return c
}

// keyFlags adds the options about the key.
func (o *sealOptions) keyFlags(flags *pflag.FlagSet) {
	flags.StringVar(&o.KeyFile, "key-file", "", "use this key: at least 32 random bytes, all of which count (default: make a new one)")
	flags.StringVar(&o.KeyOut, "key-out", "", "where to write the new key (default: IMAGE.key, mode 0600)")
	flags.StringVar(&o.PassphraseFile, "passphrase-file", "", "use this passphrase, which argon2id makes expensive to guess: at least 12 bytes, all of which count")
	flags.Uint32Var(&o.PBKDFMemory, "pbkdf-memory", 256<<10, "with a passphrase: argon2id's memory in KiB; the guest gives half of its own at most")
	flags.Uint32Var(&o.PBKDFIterations, "pbkdf-force-iterations", 4, "with a passphrase: argon2id's passes over the memory")
	flags.Uint8Var(&o.PBKDFParallel, "pbkdf-parallel", 4, "with a passphrase: argon2id's lanes, which as many CPUs work on")
	flags.StringVar(&o.SeedFile, "deterministic-from", "", "derive key, volume key, salts and UUIDs from this seed, at least 32 random bytes, and the file system: the same image each time")
}

// rootFlags adds the options about the root file system.
func (o *sealOptions) rootFlags(flags *pflag.FlagSet) {
	flags.StringVar(&o.FS, "fs", "", "file system to make, `TYPE`: squashfs; of a folder, also erofs or ext4 (default: squashfs; one that is ready stays as it is)")
	flags.IntVar(&o.Level, "compression", rootfs.DefaultLevel, "of a squashfs: zstd's `LEVEL`, 1 to 22; 15 makes it 2 % smaller and takes six times as long")
	flags.BoolVar(&o.RootOwned, "root-owned", false, "all files of a folder belong to root in the image")
	flags.StringVar(&o.OCIImage, "image", "", "which image of an OCI layout or an archive: its `TAG`, or in a layout its digest (default: the only one)")
	flags.IntVar(&o.Partition, "partition", 0, "which partition of a disk image is the root: its `NUMBER` (default: the only one of the type for it)")
}

// diskFlags adds the options about disks that the guest writes to.
func (o *sealOptions) diskFlags(c *cobra.Command) {
	o.StateKey = policy.DefaultStateKey
	option(c, &o.Scratch, "scratch", "`DISK` for what the guest writes, with a key of each boot (default: RAM); a name as --disk takes it", policy.ParseDisk)
	repeated(c, &o.States, "state", "`NAME,PATH,DISK`: an encrypted disk whose files outlive the guest and its image, mounted at the image's folder PATH; may be repeated", policy.ParseState)
	option(c, &o.StateKey, "state-key", "with --state: `GUID` of the secret entry with the key (default: "+policy.DefaultStateKey.String()+")", efi.Parse)
}

func (a *app) sealRoot(ctx context.Context, o sealOptions) error {
	bar := a.newProgress()
	defer bar.end()
	m, err := seal.Seal(ctx, o.Options, bar)
	if err != nil {
		return err
	}
	bar.end()
	if o.json {
		text, err := m.Marshal()
		a.stdout.Write(text)
		return err
	}
	return o.tell(a, m)
}

// tell says what was made.
func (o sealOptions) tell(a *app, m manifest.Manifest) error {
	fmt.Fprintf(a.stdout, "%s: %d bytes, %x\n", o.Image, m.Size, m.Image.RootHash)
	fmt.Fprintf(a.stdout, "%s: the command line to measure\n", o.CmdlineOut)
	if o.MakesKey() {
		fmt.Fprintf(a.stdout, "%s: the key, to be injected as %s; keep it secret\n", o.KeyOut, m.Key)
	}
	if len(o.States) > 0 {
		fmt.Fprintf(a.stdout, "%s: the entry for the states' key, which cocoroot state new makes\n", o.StateKey)
	}
	fmt.Fprintf(a.stdout, "%s: the manifest\n", o.ManifestOut)
	for i, d := range m.Digests {
		fmt.Fprintf(a.stdout, "%s: launch digest %s\n", o.all[i], d.Digest)
	}
	return nil
}
