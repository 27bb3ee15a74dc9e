// Package seal makes an encrypted, verifiable image of a root file system, with
// the key, the command line and the manifest that belong to it, in one call:
// Seal, with Options that Check has accepted. What is done on the way has
// packages of its own: rootfs makes the file system, audit looks through it,
// sealed encrypts and hashes it, cmdline writes the line to measure.
//
// The options are those of the command cocoroot seal, whose README says what each
// is for; errors name them as the command does.
//
// The plain file system lies in a nameless file while it is sealed, in the
// folder of the outputs: whoever can read this machine's disks can read it. The
// audit refuses only what it knows.
package seal

import (
	"cmp"
	"context"
	"errors"
	"os"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/files"
	"cocoroot/initramfs/image/cmdline"
	"cocoroot/initramfs/image/manifest"
	"cocoroot/initramfs/image/rootfs"
	"cocoroot/initramfs/image/sealed"
	"cocoroot/initramfs/strictjson"
	"cocoroot/unlock/efi"
	"cocoroot/unlock/luks2/format"
	"cocoroot/unlock/policy"
)

// Options say what is sealed, and how. An empty name means the default.
type Options struct {
	Root, Image, CmdlineOut, ManifestOut      string // files; outputs have defaults beside Image
	KeyFile, KeyOut, PassphraseFile, SeedFile string // one of the first three; none: a new key, Image.key
	PBKDFMemory, PBKDFIterations              uint32 // of argon2id, for a passphrase; KiB, passes
	PBKDFParallel                             uint8
	Disk, Init                                string         // where the guest finds the image; what it starts
	Allow                                     []string       // findings of the audit
	FS, OCIImage                              string         // squashfs, erofs or ext4; a tag or a digest
	Partition                                 int            // of a disk image; 0: the one that is a root by its type
	RootOwned                                 bool           // all files of a folder belong to root
	Level                                     int            // of zstd
	Release                                   policy.Release // zero: the secrets are injected
	Scratch                                   policy.Disk    // of the writable layer; zero: that lies in RAM
	States                                    []policy.State
	StateKey                                  efi.GUID // of States
	Credentials                               []policy.Credential
	Line                                      cmdline.Options
	Container                                 Container
	// Measure returns what launches with this command line measure; nil for
	// none.
	Measure func(line string) ([]manifest.Digest, error)
	Force   bool // replace existing files

	hasModules bool              // the root, known once it is made
	program    *manifest.Program // the same, of a container image
}

// Observer is told how the work goes.
type Observer interface {
	// Begins says which step begins.
	Begins(step string)
	// At says how many bytes of the step are done; a total of 0 is not known.
	At(done, total int64)
	// Warn says what is worth knowing but is not an error.
	Warn(format string, args ...any)
}

// Check fills in the defaults, and refuses options that do not fit together.
// Seal needs its result. given reports whether an option was given, by its name
// on the command line, such as pbkdf-memory.
func (o *Options) Check(given func(string) bool) error {
	if err := checkAllowed(o.Allow); err != nil {
		return err
	}
	if err := cmp.Or(o.checkKey(given), o.checkContainer(given)); err != nil {
		return err
	}
	if files.IsBlockDevice(o.Image) && (o.CmdlineOut == "" || o.ManifestOut == "" || o.KeyOut == "" && o.MakesKey()) {
		return fault.Usagef("%s is a block device, and nothing goes beside it: give --cmdline-out, --manifest-out and --key-out", o.Image)
	}
	o.KeyOut = cmp.Or(o.KeyOut, o.Image+".key")
	o.CmdlineOut = cmp.Or(o.CmdlineOut, o.Image+".cmdline")
	o.ManifestOut = cmp.Or(o.ManifestOut, o.Image+".manifest.json")
	return o.checkRoot()
}

// Seal makes the image and what belongs to it, and returns the manifest. All of
// the files appear together, or none does. When ctx ends, so does the work.
func Seal(ctx context.Context, o Options, tell Observer) (m manifest.Manifest, err error) {
	if _, _, err := o.draftLine(policy.Squashfs); err != nil {
		return m, err // before the long work begins
	}
	// Every output is opened before the long work begins.
	all := files.Outputs{Scratch: files.ScratchOf(ctx)}
	defer all.Discard()
	var line, about, keyOut *files.Output
	image, err := all.Create(o.Image, 0o644, o.Force)
	if err == nil {
		line, err = all.Create(o.CmdlineOut, 0o644, o.Force)
	}
	if err == nil {
		about, err = all.Create(o.ManifestOut, 0o644, o.Force)
	}
	if err == nil && o.MakesKey() {
		keyOut, err = all.Create(o.KeyOut, 0o600, o.Force)
	}
	if err != nil {
		return m, err
	}
	kept, err := o.keepKey()
	if err != nil {
		return m, err
	}
	defer func() {
		if err != nil && kept != "" && sameFile(kept, o.KeyOut) {
			os.Remove(kept) // nothing was replaced
		}
	}()
	result, kind, err := o.writeImage(ctx, tell, image, keyOut)
	if err != nil {
		return m, err
	}
	p, err := o.policy(kind, result.Params)
	if err != nil {
		return m, err
	}
	m = manifest.Manifest{
		Version: strictjson.Version, Image: result.Params, Size: uint64(result.Size), LUKS: result.UUID,
		FSType: p.FSType, Key: p.Key, Program: o.program, States: manifest.StatesOf(p), StateKey: p.StateKey,
	}
	if m.Cmdline, err = cmdline.Build(p, o.lineOptions()); err != nil {
		return m, err
	}
	if o.Measure != nil {
		if m.Digests, err = o.Measure(m.Cmdline); err != nil {
			return m, err
		}
	}
	text, err := m.Marshal()
	if err == nil {
		_, err = line.Write([]byte(m.Cmdline + "\n"))
	}
	if err == nil {
		_, err = about.Write(text)
	}
	if err == nil {
		err = all.Commit()
	}
	if err != nil {
		return m, err
	}
	if kept != "" {
		tell.Warn("%s was replaced; the key of the previous image is kept as %s", o.KeyOut, kept)
	}
	return m, nil
}

// writeImage makes the file system in a folder beside the image and seals it.
// It returns what kind of file system it is, too.
func (o *Options) writeImage(ctx context.Context, tell Observer, image, keyOut *files.Output) (result sealed.Result, kind policy.FSType, err error) {
	brought, err := o.readKey(tell)
	if err != nil {
		return result, "", err
	}
	if brought != nil {
		defer brought.Close()
	}
	tell.Begins("making the file system")
	root, err := o.makeRoot(ctx, tell)
	if err != nil {
		return result, "", err
	}
	defer root.Close()
	for _, w := range root.Warnings {
		tell.Warn("%s", w)
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
	tell.Begins("sealing")
	result, err = sealed.Write(ctx, image, root.File, root.Size, sealed.Options{
		Passphrase: with.key.Bytes(), KDF: o.kdf(), Random: with.random, Progress: tell.At,
	})
	switch {
	case errors.Is(err, format.ErrKDF):
		return result, "", fault.Usagef("the guest would refuse this image: %w", err)
	case err != nil:
		return result, "", err
	}
	if with.sum != nil { // whose key no other file system may have
		if sum, err := sumOf(root); err != nil || sum != *with.sum {
			return result, "", cmp.Or(err, rootfs.ErrChanged)
		}
	}
	return result, root.Type, root.Check()
}
