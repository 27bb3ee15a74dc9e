// Package verify checks a sealed image as its owner can: every block against the
// measured root hash and, with the key, that the guest opens it.
//
// The root hash says that an image is the one that was measured. It does not
// say that it is the newest one, nor what is in it.
package verify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/files"
	"cocoroot/initramfs/image/fsimage"
	"cocoroot/unlock/luks2/format"
	"cocoroot/unlock/policy"
	"cocoroot/unlock/secret"
	"cocoroot/unlock/verity"
	"cocoroot/unlock/verity/tree"
)

// Result is what was found, for people and as JSON.
type Result struct {
	Image      string    `json:"image"`
	Size       int64     `json:"size"` // bytes that the root hash is about
	RootHash   string    `json:"root_hash"`
	OK         bool      `json:"ok"`
	BadBlocks  uint64    `json:"bad_blocks"`
	Unchecked  uint64    `json:"unchecked_data_blocks"` // below a bad block of the tree
	First      *BadBlock `json:"first_bad_block"`
	Superblock string    `json:"superblock"` // "ok", or what is wrong with it; nothing believes it
	LUKS       *LUKS     `json:"luks"`       // null without a key
	Rest       int64     `json:"-"`          // bytes after the image, which nothing measures
}

// BadBlock is the first block that differs.
type BadBlock struct {
	Offset int64  `json:"offset"` // bytes
	What   string `json:"what"`
}

// LUKS is what was found with the key.
type LUKS struct {
	UUID           string        `json:"uuid"`
	KDF            string        `json:"kdf"`
	Filesystem     policy.FSType `json:"filesystem"`
	FilesystemSize int64         `json:"filesystem_size"` // bytes
}

// Image checks an image against the policy that is measured with it, and with a
// keyFile that the key opens it. An image that differs from the root hash is a
// fault.Tampered, a key that does not open it a fault.Secret; the Result is
// filled in as far as that is known. progress is told the bytes that are done,
// and all there are.
func Image(ctx context.Context, path string, measured policy.Policy, keyFile string, progress func(done, total int64)) (Result, error) {
	v := Result{Image: path, Size: int64(measured.Image.DeviceSize()), RootHash: fmt.Sprintf("%x", measured.Image.RootHash)}
	err := v.check(ctx, measured, keyFile, progress)
	return v, err
}

func (v *Result) check(ctx context.Context, measured policy.Policy, keyFile string, progress func(done, total int64)) error {
	p := measured.Image
	f, size, err := files.Open(v.Image)
	if err != nil {
		return err
	}
	defer f.Close()
	head := make([]byte, 4)
	if _, err := f.ReadAt(head, 0); err == nil && files.IsQcow2(head) {
		return tampered(fmt.Errorf("%s is not the measured image: %s", v.Image, files.Raw))
	}
	switch {
	case size == 0:
		return tampered(fmt.Errorf("%s is not the measured image: it is empty", v.Image))
	case size < v.Size:
		return tampered(fmt.Errorf("%s is not the measured image: it has %d bytes, and the image %d: it was cut, or copied only in part", v.Image, size, v.Size))
	}
	verdict, err := tree.Verify(ctx, p, f, func(done int64) { progress(done, int64(p.DataSize())) })
	switch {
	case errors.Is(err, tree.ErrShort):
		return tampered(fmt.Errorf("%s is not the measured image: %w", v.Image, err))
	case err != nil:
		return fmt.Errorf("cannot verify %s: %w", v.Image, err)
	}
	v.BadBlocks, v.Unchecked = verdict.Bad, verdict.Unchecked
	if verdict.First != nil {
		v.First = &BadBlock{verdict.First.Offset, whatLies(p, *verdict.First)}
		return tampered(fmt.Errorf("%s is not the measured image: %s, the first at byte %d: %s", v.Image, differ(v.BadBlocks), v.First.Offset, v.First.What))
	}
	v.Superblock = superblockState(f, p)
	if keyFile != "" {
		if v.LUKS, err = openWithKey(measured, f, keyFile); err != nil {
			return err
		}
	}
	v.OK, v.Rest = true, size-v.Size
	return nil
}

func differ(n uint64) string {
	if n == 1 {
		return "1 block differs"
	}
	return fmt.Sprintf("%d blocks differ", n)
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
func openWithKey(measured policy.Policy, f io.ReaderAt, keyFile string) (*LUKS, error) {
	key, err := files.ReadSecret(keyFile, secret.MaxKeySize)
	if err != nil {
		return nil, err
	}
	defer key.Close()
	r := tree.NewReader(measured.Image, f)
	header, info, err := format.ReadHeader(r, measured.Image.DataSize())
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
	plain, err := format.Start(r, info, volume.Bytes(), fsimage.HeadSize)
	if err != nil {
		return nil, err
	}
	kind, size, err := fsimage.Detect(bytes.NewReader(plain))
	switch {
	case err != nil:
		return nil, fmt.Errorf("the image holds no file system that the guest mounts: %w", err)
	case kind != measured.FSType:
		return nil, fmt.Errorf("the image holds %s, and the command line says rootfstype=%s", kind, measured.FSType)
	case uint64(size) > info.Size:
		return nil, fmt.Errorf("the file system has %d bytes, and the image %d for it", size, info.Size)
	}
	return &LUKS{info.UUID, format.Describe(info.KDF), kind, size}, nil
}
