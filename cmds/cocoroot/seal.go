package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/files"
	"cocoroot/initramfs/image/cmdline"
	"cocoroot/initramfs/image/manifest"
	"cocoroot/initramfs/image/rootfs"
	"cocoroot/initramfs/image/sealed"
	"cocoroot/unlock/luks2/format"
	"cocoroot/unlock/policy"
)

// sealOptions is what the verb was told.
type sealOptions struct {
	root, image, cmdlineOut, manifestOut      string
	keyFile, keyOut, passphraseFile, seedFile string
	pbkdfMemory, pbkdfIterations              uint32
	pbkdfParallel                             uint8
	disk, init                                string
	allow                                     []string
	fs, ociImage                              string
	rootOwned                                 bool
	level                                     int
	line                                      cmdline.Options
	force, json                               bool
}

func (a *app) seal() *cobra.Command {
	var o sealOptions
	c := verb("seal ROOTFS -o IMAGE", "make an encrypted, verifiable image of a folder, a tar, an OCI image or a file system",
		"  cocoroot seal root/ -o image\n  docker save app | cocoroot seal - -o image --init /bin/app --disk serial:root", oneArg("the root file system"))
	flags := c.Flags()
	flags.StringVarP(&o.image, "output", "o", "", "where to write the image")
	o.keyFlags(flags)
	flags.StringVar(&o.cmdlineOut, "cmdline-out", "", "where to write the command line (default: IMAGE.cmdline)")
	flags.StringVar(&o.manifestOut, "manifest-out", "", "where to write the manifest (default: IMAGE.manifest.json)")
	o.rootFlags(flags)
	flags.StringVar(&o.disk, "disk", "/dev/vda", "where the guest finds the image: /dev/NAME, serial:NAME, PARTUUID=GUID or PARTLABEL=NAME")
	flags.StringVar(&o.init, "init", "", "the image's program to start (default: /sbin/init)")
	flags.StringSliceVar(&o.allow, "allow", nil, "seal a root in which the audit finds this: "+strings.Join(auditNames(), ", "))
	flags.StringVar(&o.line.Append, "append", "", "text for the end of the command line")
	flags.BoolVar(&o.line.NoACPI, "no-acpi", false, "for firmware that is not cocoroot's own, which never reads the host's ACPI tables: acpi=off on the command line keeps their code from running, and leaves the guest one CPU, and a reset where it would power off")
	flags.BoolVar(&o.force, "force", false, "replace existing files")
	flags.BoolVar(&o.json, "json", false, "print the manifest; progress as JSON on standard error, one object a line")
	need(c, "output")
	choices(c, "fs", "squashfs", "erofs", "ext4")
	choices(c, "allow", auditNames()...)
	c.RunE = func(c *cobra.Command, args []string) error {
		o.root = args[0]
		if err := o.check(c.Flags().Changed); err != nil {
			return err
		}
		return seal(c.Context(), a, o)
	}
	return c
}

// check completes the options, and refuses those that do not fit together.
func (o *sealOptions) check(given func(string) bool) error {
	if err := checkAllowed(o.allow); err != nil {
		return err
	}
	if err := o.checkKey(given); err != nil {
		return err
	}
	if files.IsBlockDevice(o.image) && (o.cmdlineOut == "" || o.manifestOut == "" || o.keyOut == "" && o.makesKey()) {
		return fault.Usagef("%s is a block device, and nothing goes beside it: give --cmdline-out, --manifest-out and --key-out", o.image)
	}
	if o.keyOut == "" {
		o.keyOut = o.image + ".key"
	}
	if o.cmdlineOut == "" {
		o.cmdlineOut = o.image + ".cmdline"
	}
	if o.manifestOut == "" {
		o.manifestOut = o.image + ".manifest.json"
	}
	return o.checkRoot()
}

// seal makes the image and what belongs to it; all of it appears together.
func seal(ctx context.Context, a *app, o sealOptions) error {
	if _, _, err := o.draftLine(policy.Squashfs); err != nil {
		return err // before the long work begins
	}
	// Every output is opened before the long work begins.
	all := files.Outputs{Scratch: files.ScratchOf(ctx)}
	defer all.Discard()
	image, err := all.Create(o.image, 0o644, o.force)
	if err != nil {
		return err
	}
	line, err := all.Create(o.cmdlineOut, 0o644, o.force)
	if err != nil {
		return err
	}
	about, err := all.Create(o.manifestOut, 0o644, o.force)
	if err != nil {
		return err
	}
	var keyOut *files.Output
	if o.makesKey() {
		if keyOut, err = all.Create(o.keyOut, 0o600, o.force); err != nil {
			return err
		}
	}
	result, kind, err := o.writeImage(ctx, a, image, keyOut)
	if err != nil {
		return err
	}
	p, err := o.policy(kind, result.Params)
	if err != nil {
		return err
	}
	m := manifest.Manifest{
		Version: manifest.Version, Image: result.Params, Size: uint64(result.Size), LUKS: result.UUID,
		FSType: p.FSType, Key: p.Key,
	}
	if m.Cmdline, err = cmdline.Build(p, o.lineOptions()); err != nil {
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
	if err := all.Commit(); err != nil {
		return err
	}
	if o.json {
		_, err := a.stdout.Write(text)
		return err
	}
	return o.tell(a, m)
}

// writeImage makes the file system in a folder beside the image and seals it.
// It returns what kind of file system it is, too.
func (o sealOptions) writeImage(ctx context.Context, a *app, image, keyOut *files.Output) (result sealed.Result, kind policy.FSType, err error) {
	brought, err := o.readKey(a)
	if err != nil {
		return result, "", err
	}
	if brought != nil {
		defer brought.Close()
	}
	bar := newProgress(a.stderr, o.json)
	defer bar.end()
	bar.begins("making the file system")
	root, err := o.makeRoot(ctx)
	if err != nil {
		return result, "", err
	}
	defer root.Close()
	for _, w := range root.Warnings {
		bar.end()
		a.warn("%s", w)
	}
	if err := o.auditRoot(root); err != nil {
		return result, "", err
	}
	size, err := sealed.ImageSize(root.Size)
	if err == nil {
		err = image.Fits(size)
	}
	if err != nil {
		return result, "", err
	}
	with, err := o.secrets(root, brought, keyOut)
	if err != nil {
		return result, "", err
	}
	defer with.key.Close()
	bar.begins("sealing")
	h := sha256.New()
	var plain io.Reader = io.NewSectionReader(root.File, 0, root.Size)
	if with.sum != nil {
		plain = io.TeeReader(plain, h)
	}
	result, err = sealed.Write(ctx, image, plain, root.Size, sealed.Options{
		Passphrase: with.key.Bytes(), KDF: o.kdf(), Random: with.random, Progress: bar.at,
	})
	switch {
	case errors.Is(err, format.ErrKDF):
		return result, "", fault.Usagef("the guest would refuse this image: %w", err)
	case err != nil:
		return result, "", err
	case with.sum != nil && !bytes.Equal(h.Sum(nil), with.sum[:]):
		return result, "", rootfs.ErrChanged
	}
	return result, root.Type, root.Check()
}

// tell says what was made.
func (o sealOptions) tell(a *app, m manifest.Manifest) error {
	fmt.Fprintf(a.stdout, "%s: %d bytes, %x\n", o.image, m.Size, m.Image.RootHash)
	fmt.Fprintf(a.stdout, "%s: the command line to measure\n", o.cmdlineOut)
	if o.makesKey() {
		fmt.Fprintf(a.stdout, "%s: the key, to be injected as %s; keep it secret\n", o.keyOut, m.Key)
	}
	fmt.Fprintf(a.stdout, "%s: the manifest\n", o.manifestOut)
	return nil
}
