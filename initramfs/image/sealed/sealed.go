// Package sealed writes the image that the guest boots from: an encrypted
// root file system whose every byte is covered by one hash.
//
//	offset in bytes
//	0                    LUKS2 header, 1 MiB (format.RegionSize)
//	1 MiB                ciphertext: aes-xts-plain64, sectors of 4096 bytes
//	P.DataSize()         dm-verity superblock, one block, for stock tools only
//	P.HashStart()*4096   hash tree, the level next to the root first
//	P.DeviceSize()       end
//
// P is the verity.Params that Write returns and the measured command line
// carries. The hash covers header and ciphertext, so nothing of the disk is
// parsed that is not measured, the keyslot included. The guest activates
// dm-verity, then dm-crypt on top of it. A sector's tweak is its distance
// from the segment's start in units of 512 bytes, little-endian, as dm-crypt
// counts without iv_large_sectors (kernel
// Documentation/admin-guide/device-mapper/dm-crypt.rst). Writing needs no
// root, no loop device and no device-mapper.
//
// An image shows its size. It is protected against changes only where the
// root hash is measured, and to whoever may choose the command line an old
// image is as good as a new one. While Write runs, and until the memory is
// reused, AES's schedule of the keyslot's key lies on the Go heap (the volume
// key's too where the processor has no AES-NI), and plaintext passes through
// it: seal on a machine that may see the file system.
package sealed

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"

	"github.com/google/uuid"

	"cocoroot/initramfs/image/xts"
	"cocoroot/unlock/luks2"
	"cocoroot/unlock/luks2/format"
	"cocoroot/unlock/secmem"
	"cocoroot/unlock/verity"
	"cocoroot/unlock/verity/tree"
)

const (
	blockSize  = verity.BlockSize
	dataOffset = format.RegionSize
	saltSize   = 32 // bytes of verity salt, as many as veritysetup takes
)

var errSourceSize = errors.New("cannot seal a source of this size")

// Options says how an image is sealed.
type Options struct {
	Passphrase []byte    // of the only keyslot; stays the caller's
	KDF        luks2.KDF // of the keyslot
	Random     io.Reader // nil, but in tests, means crypto/rand.Reader

	// Progress, if set, is called with the bytes of the image that are
	// written, and at the end with total for both: never twice at a time, and
	// done only grows. Writing waits for it.
	Progress func(done, total int64)
}

// Result describes a finished image. All sizes are in bytes.
type Result struct {
	Params verity.Params // for the measured command line
	UUID   string        // of the LUKS2 header
	Size   int64         // of the whole image
}

// ImageSize returns the bytes of an image of size bytes of file system.
func ImageSize(size int64) (int64, error) {
	blocks, err := dataBlocks(size)
	if err != nil {
		return 0, err
	}
	return int64(verity.Params{DataBlocks: blocks}.DeviceSize()), nil
}

func dataBlocks(size int64) (uint64, error) {
	const most = (verity.MaxDataBlocks - dataOffset/blockSize) * blockSize
	if size <= 0 || size > most {
		return 0, fmt.Errorf("%w: %d bytes are not 1 to %d", errSourceSize, size, int64(most))
	}
	return uint64(dataOffset/blockSize + (size+blockSize-1)/blockSize), nil
}

// Write seals the first size bytes of src into dst, from dst's offset 0 on. They
// are padded with zeros to a whole block. After an error, dst holds nothing of
// use. Write does not sync. Where dst is a file, its pages are sent to the disk
// along the way.
//
// Every processor reads, encrypts, hashes and writes, side by side and in no
// order: src and dst are used by several goroutines at a time. Memory is the same
// for every size, but for 32 bytes of each 512 KiB. When ctx is done, Write returns
// its cause after the ReadAt and WriteAt that have begun: one that hangs has to be
// ended by closing what it hangs in.
//
// The same source, options and random bytes give the same image. They are
// read in this order: volume key (64), UUID (16), what format.New
// reads, verity salt (32), UUID of the verity superblock (16).
func Write(ctx context.Context, dst io.WriterAt, src io.ReaderAt, size int64, o Options) (Result, error) {
	blocks, err := dataBlocks(size)
	if err != nil {
		return Result{}, err
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	key, err := secmem.New(luks2.KeySize)
	if err != nil {
		return Result{}, err
	}
	defer key.Close()
	if err := format.NewVolumeKey(key.Bytes(), o.Random); err != nil {
		return Result{}, err
	}
	id, err := uuid.NewRandomFromReader(o.Random)
	if err != nil {
		return Result{}, fmt.Errorf("cannot make a UUID: %w", err)
	}
	header, err := format.New(format.Options{
		Passphrase: o.Passphrase, VolumeKey: key.Bytes(), KDF: o.KDF, UUID: id, Random: o.Random,
	})
	if err != nil {
		return Result{}, err
	}
	salt := make([]byte, saltSize)
	if _, err := io.ReadFull(o.Random, salt); err != nil {
		return Result{}, fmt.Errorf("cannot make a verity salt: %w", err)
	}
	treeID, err := uuid.NewRandomFromReader(o.Random)
	if err != nil {
		return Result{}, err
	}
	cipher, err := xts.New(key.Bytes())
	if err != nil {
		return Result{}, err
	}
	defer cipher.Close()
	p := verity.Params{DataBlocks: blocks}
	w := &writer{dst: dst, src: src, size: size, header: header, cipher: cipher, progress: o.Progress, total: int64(p.DeviceSize())}
	if w.tree, err = tree.NewBuilder(io.NewOffsetWriter(dst, int64(p.DataSize())), blocks, salt); err != nil {
		return Result{}, err
	}
	if err := w.write(ctx, int64(p.DataSize())); err != nil {
		return Result{}, err
	}
	if p, err = w.tree.Finish(treeID); err != nil {
		return Result{}, err
	}
	w.advance(w.total - w.done)
	return Result{Params: p, UUID: id.String(), Size: w.total}, nil
}
