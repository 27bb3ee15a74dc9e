package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"

	"cocoroot/initramfs/cmdline"
	"cocoroot/initramfs/manifest"
	"cocoroot/unlock/luks2"
	"cocoroot/unlock/policy"
	"cocoroot/unlock/sealed"
	"cocoroot/unlock/secmem"
)

// sealOptions is what the verb was told.
type sealOptions struct {
	root, image, keyFile, keyOut, cmdlineOut, manifestOut string
	disk                                                  string
	fs, ociImage                                          string
	rootOwned                                             bool
	line                                                  cmdline.Options
	force, json                                           bool
}

func runSeal(ctx context.Context, a *app, flags *pflag.FlagSet, args []string) error {
	var o sealOptions
	flags.StringVarP(&o.image, "output", "o", "", "where to write the image")
	flags.StringVar(&o.keyFile, "key-file", "", "use this key: at least 32 random bytes, all of which count (default: make a new one)")
	flags.StringVar(&o.keyOut, "key-out", "", "where to write the new key (default: IMAGE.key, mode 0600)")
	flags.StringVar(&o.cmdlineOut, "cmdline-out", "", "where to write the command line (default: IMAGE.cmdline)")
	flags.StringVar(&o.manifestOut, "manifest-out", "", "where to write the manifest (default: IMAGE.manifest.json)")
	o.rootFlags(flags)
	flags.StringVar(&o.disk, "disk", "/dev/vda", "where the guest finds the image: /dev/NAME, serial:NAME, PARTUUID=GUID or PARTLABEL=NAME")
	flags.StringVar(&o.line.Append, "append", "", "text for the end of the command line")
	flags.BoolVar(&o.line.NoACPI, "no-acpi", false, "write a command line with acpi=off: no code from the host's ACPI tables runs, and the guest has one CPU and resets where it would power off")
	flags.BoolVar(&o.force, "force", false, "replace existing files")
	flags.BoolVar(&o.json, "json", false, "print the manifest")
	if err := parse(flags, args, "output"); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		return usagef("seal takes one argument, the root file system; there are %d", flags.NArg())
	}
	if o.keyFile != "" && o.keyOut != "" {
		return usagef("--key-file and --key-out exclude each other")
	}
	o.root = flags.Arg(0)
	if o.keyOut == "" {
		o.keyOut = o.image + ".key"
	}
	if o.cmdlineOut == "" {
		o.cmdlineOut = o.image + ".cmdline"
	}
	if o.manifestOut == "" {
		o.manifestOut = o.image + ".manifest.json"
	}
	if err := o.checkRoot(); err != nil {
		return err
	}
	return seal(ctx, a, o)
}

// seal makes the image and what belongs to it; all of it appears together.
func seal(ctx context.Context, a *app, o sealOptions) error {
	p := policy.Defaults()
	var err error
	if p.Disk, err = policy.ParseDisk(o.disk); err != nil {
		return usagef("--disk: %w", err)
	}
	// Every output is opened before the long work begins.
	var files outputs
	defer files.discard()
	image, err := files.create(o.image, 0o644, o.force)
	if err != nil {
		return err
	}
	line, err := files.create(o.cmdlineOut, 0o644, o.force)
	if err != nil {
		return err
	}
	about, err := files.create(o.manifestOut, 0o644, o.force)
	if err != nil {
		return err
	}
	key, err := o.key(a, &files)
	if err != nil {
		return err
	}
	defer key.Close()

	result, kind, err := o.writeImage(ctx, a, image, key)
	if err != nil {
		return err
	}
	p.Image, p.FSType = result.Params, kind
	m := manifest.Manifest{
		Version: manifest.Version, Image: result.Params, Size: uint64(result.Size), LUKS: result.UUID,
		FSType: p.FSType, Key: p.Key,
	}
	if m.Cmdline, err = cmdline.Build(p, o.line); err != nil {
		return err
	}
	if _, err := line.WriteString(m.Cmdline + "\n"); err != nil {
		return fmt.Errorf("cannot write %s: %w", o.cmdlineOut, err)
	}
	text, err := m.Marshal()
	if err != nil {
		return err
	}
	if _, err := about.Write(text); err != nil {
		return fmt.Errorf("cannot write %s: %w", o.manifestOut, err)
	}
	if err := files.commit(); err != nil {
		return err
	}
	if o.json {
		_, err := a.stdout.Write(text)
		return err
	}
	return o.tell(a, m)
}

// writeImage makes the file system in a folder beside the image, which is
// removed again, and seals it. It returns what kind of file system it is, too.
func (o sealOptions) writeImage(ctx context.Context, a *app, image *output, key *secmem.Buffer) (sealed.Result, policy.FSType, error) {
	fail := func(err error) (sealed.Result, policy.FSType, error) { return sealed.Result{}, "", err }
	dir, err := os.MkdirTemp(filepath.Dir(o.image), ".cocoroot-seal-*") // mode 0700
	if err != nil {
		return fail(fmt.Errorf("cannot make a folder for the file system: %w", err))
	}
	defer os.RemoveAll(dir)
	bar := newProgress(a.stderr)
	defer bar.end()
	bar.say("making the file system")
	root, err := o.makeRoot(ctx, dir)
	if err != nil {
		return fail(err)
	}
	defer root.Close()
	result, err := sealed.Write(ctx, image, io.LimitReader(root.File, root.Size), root.Size, sealed.Options{
		Passphrase: key.Bytes(), KDF: luks2.PBKDF2(luks2.GeneratedKeyIterations), Random: rand.Reader,
		Progress: func(done, total int64) { bar.at("sealing", done, total) },
	})
	if err == nil {
		err = root.Check()
	}
	return result, root.Type, err
}

// tell says what was made.
func (o sealOptions) tell(a *app, m manifest.Manifest) error {
	fmt.Fprintf(a.stdout, "%s: %d bytes, %x\n", o.image, m.Size, m.Image.RootHash)
	fmt.Fprintf(a.stdout, "%s: the command line to measure\n", o.cmdlineOut)
	if o.keyFile == "" {
		fmt.Fprintf(a.stdout, "%s: the key, to be injected as %s; keep it secret\n", o.keyOut, m.Key)
	}
	fmt.Fprintf(a.stdout, "%s: the manifest\n", o.manifestOut)
	return nil
}
