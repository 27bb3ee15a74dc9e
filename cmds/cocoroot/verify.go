package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/files"
	"cocoroot/initramfs/image/fsimage"
	"cocoroot/unlock/luks2"
	"cocoroot/unlock/luks2/format"
	"cocoroot/unlock/policy"
	"cocoroot/unlock/secret"
	"cocoroot/unlock/verity"
	"cocoroot/unlock/verity/tree"
)

// verification is what verify prints with --json.
type verification struct {
	Image      string     `json:"image"`
	Size       int64      `json:"size"` // bytes that the root hash is about
	RootHash   string     `json:"root_hash"`
	OK         bool       `json:"ok"`
	BadBlocks  uint64     `json:"bad_blocks"`
	Unchecked  uint64     `json:"unchecked_data_blocks"` // below a bad block of the tree
	First      *badBlock  `json:"first_bad_block"`
	Superblock string     `json:"superblock"` // "ok", or what is wrong with it; nothing believes it
	LUKS       *luksCheck `json:"luks"`       // null without a key
}

// badBlock is the first block that differs.
type badBlock struct {
	Offset int64  `json:"offset"` // bytes
	What   string `json:"what"`
}

// luksCheck is what was found with the key.
type luksCheck struct {
	UUID           string        `json:"uuid"`
	KDF            string        `json:"kdf"`
	Filesystem     policy.FSType `json:"filesystem"`
	FilesystemSize int64         `json:"filesystem_size"` // bytes
}

func (a *app) verify() *cobra.Command {
	var manifestFile, cmdlineFile, keyFile string
	var asJSON bool
	c := verb("verify IMAGE --manifest F|--cmdline-file F [--key-file F]", "check every block of an image against the measured root hash; with the key, also that it opens",
		"  cocoroot verify image --manifest image.manifest.json", oneArg("the image"))
	flags := c.Flags()
	flags.StringVar(&manifestFile, "manifest", "", "manifest that cocoroot seal wrote, from where you trust it")
	flags.StringVar(&cmdlineFile, "cmdline-file", "", "command line that is measured")
	flags.StringVar(&keyFile, "key-file", "", "key or passphrase: check also that it opens the image, and what file system is in it")
	flags.BoolVar(&asJSON, "json", false, "print the result as JSON; progress as JSON on standard error, one object a line")
	c.RunE = func(c *cobra.Command, args []string) error {
		return a.verifyImage(c.Context(), args[0], manifestFile, cmdlineFile, keyFile, asJSON)
	}
	return c
}

func (a *app) verifyImage(ctx context.Context, image, manifestFile, cmdlineFile, keyFile string, asJSON bool) error {
	if manifestFile == "" && cmdlineFile == "" {
		return fault.New(fault.Usage, errors.New("there is nothing to verify against: give one of --manifest and --cmdline-file"),
			fmt.Sprintf("take the manifest from where you sealed (%s.manifest.json), not from where the image was: who changes the one can change the other", image))
	}
	line, err := readReference(manifestFile, cmdlineFile)
	if err != nil {
		return err
	}
	p, err := policy.Parse(line)
	if err != nil {
		return fmt.Errorf("cannot use the command line: %w", err)
	}
	v := verification{Image: image, Size: int64(p.Image.DeviceSize()), RootHash: fmt.Sprintf("%x", p.Image.RootHash)}
	result := v.check(ctx, a, p, keyFile, asJSON)
	if code := fault.Code(result); asJSON && (code == fault.OK || code == fault.Tampered) {
		text, _ := json.MarshalIndent(v, "", "  ") // numbers and texts
		fmt.Fprintf(a.stdout, "%s\n", text)
	}
	return result
}

// check does the work. What differs from the root hash is an fault.Tampered.
func (v *verification) check(ctx context.Context, a *app, measured policy.Policy, keyFile string, asJSON bool) error {
	p := measured.Image
	f, size, err := files.Open(v.Image)
	if err != nil {
		return err
	}
	defer f.Close()
	bar := a.newProgress()
	bar.Begins("verifying")
	verdict, err := tree.Verify(ctx, p, f, func(done int64) { bar.At(done, int64(p.DataSize())) })
	bar.end()
	switch {
	case errors.Is(err, tree.ErrShort):
		return tampered(fmt.Errorf("%s is not the measured image: %w", v.Image, err))
	case err != nil:
		return fmt.Errorf("cannot verify %s: %w", v.Image, err)
	}
	v.BadBlocks, v.Unchecked = verdict.Bad, verdict.Unchecked
	if verdict.First != nil {
		v.First = &badBlock{verdict.First.Offset, whatLies(p, *verdict.First)}
		return tampered(fmt.Errorf("%s is not the measured image: %d blocks differ, the first at byte %d: %s", v.Image, v.BadBlocks, v.First.Offset, v.First.What))
	}
	v.Superblock = superblockState(f, p)
	if keyFile != "" {
		if v.LUKS, err = openWithKey(measured, f, keyFile); err != nil {
			return err
		}
	}
	v.OK = true
	if asJSON {
		return nil
	}
	fmt.Fprintf(a.stdout, "%s: every one of %d bytes is measured by %s\n", v.Image, v.Size, v.RootHash)
	if v.LUKS != nil {
		fmt.Fprintf(a.stdout, "%s: the key opens it (LUKS2 %s, %s): %s of %d bytes\n", v.Image, v.LUKS.UUID, v.LUKS.KDF, v.LUKS.Filesystem, v.LUKS.FilesystemSize)
	}
	if v.Superblock != "ok" {
		a.warn("%s: %s; the guest does not read it, veritysetup may", v.Image, v.Superblock)
	}
	if size > v.Size {
		a.warn("%s: %d bytes behind the image are not measured, and the guest does not read them", v.Image, size-v.Size)
	}
	return nil
}

func tampered(err error) error {
	return fault.New(fault.Tampered, err, "take the image from where it was sealed again; or is this the manifest of another one?")
}

// whatLies says what lies in a block, by what cocoroot seal puts there: of a
// header that differs, nothing is believed.
func whatLies(p verity.Params, b tree.Bad) string {
	switch {
	case b.Level > 0:
		return fmt.Sprintf("hash tree, level %d, block %d, for the data blocks %d to %d", b.Level, b.Block, b.First, b.First+b.Count-1)
	case b.Offset < format.HeaderSize:
		return "LUKS2 header, first copy"
	case b.Offset < 2*format.HeaderSize:
		return "LUKS2 header, second copy"
	case b.Offset < format.RegionSize:
		return "LUKS2 keyslots"
	}
	return fmt.Sprintf("encrypted data, byte %d of the file system (as cocoroot seal lays it out)", b.Offset-format.RegionSize)
}

// superblockState compares the superblock, which the root hash does not cover.
func superblockState(f io.ReaderAt, p verity.Params) string {
	block := make([]byte, verity.BlockSize)
	if _, err := f.ReadAt(block, int64(p.DataSize())); err != nil {
		return "the superblock cannot be read"
	}
	super, _, err := tree.ParseSuperblock(block)
	switch {
	case err != nil:
		return "the superblock is not one: " + err.Error()
	case super.DataBlocks != p.DataBlocks || super.SaltText() != p.SaltText():
		return "the superblock is another image's"
	}
	return "ok"
}

// openWithKey opens the image as the guest does, and checks that the file
// system is the one that the command line names. What its files say, the root
// hash binds already. Each block is checked against the root hash again as it
// is read: the file may have changed.
func openWithKey(measured policy.Policy, f io.ReaderAt, keyFile string) (*luksCheck, error) {
	key, err := files.ReadSecret(keyFile, secret.MaxKeySize)
	if err != nil {
		return nil, err
	}
	defer key.Close()
	r := tree.NewReader(measured.Image, f)
	header, info, err := checkHeaders(r, measured.Image)
	if err != nil {
		return nil, fmt.Errorf("the guest would refuse the image: %w", err)
	}
	pass := key.Bytes()
	volume, err := format.VolumeKey(r, header, info, pass)
	if n := len(pass) - 1; errors.Is(err, format.ErrPassphrase) && n > 0 && pass[n] == 0 {
		volume, err = format.VolumeKey(r, header, info, pass[:n])
	}
	if errors.Is(err, format.ErrPassphrase) {
		return nil, fault.New(fault.Secret, fmt.Errorf("%s does not open the image", keyFile), "every byte of the file counts, a newline at its end too")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot unlock the image: %w", err)
	}
	defer volume.Close()
	plain, err := format.NewReader(r, info, volume.Bytes())
	if err != nil {
		return nil, err
	}
	kind, size, err := fsimage.Detect(plain)
	switch {
	case err != nil:
		return nil, fmt.Errorf("the image holds no file system that the guest mounts: %w", err)
	case kind != measured.FSType:
		return nil, fmt.Errorf("the image holds %s, and the command line says rootfstype=%s", kind, measured.FSType)
	case uint64(size) > info.Size:
		return nil, fmt.Errorf("the file system has %d bytes, and the image %d for it", size, info.Size)
	}
	return &luksCheck{info.UUID, format.Describe(info.KDF), kind, size}, nil
}

// checkHeaders holds both copies of the header against the allow-list, and
// returns the first.
func checkHeaders(r io.ReaderAt, p verity.Params) ([]byte, luks2.Info, error) {
	first := make([]byte, luks2.BinaryHeaderSize)
	if _, err := r.ReadAt(first, 0); err != nil {
		return nil, luks2.Info{}, err
	}
	size, err := luks2.HeaderSize(first)
	if err != nil {
		return nil, luks2.Info{}, err
	}
	both := make([]byte, 2*size)
	if _, err := r.ReadAt(both, 0); err != nil {
		return nil, luks2.Info{}, err
	}
	info, err := luks2.Check(both[:size], p.DataSize(), luks2.Limits{})
	if err != nil {
		return nil, info, err
	}
	return both[:size], info, format.CheckSecondary(both[:size], both[size:])
}
