package inspect

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sort"

	"github.com/google/uuid"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/image/cmdline"
	"cocoroot/unlock/luks2/format"
	"cocoroot/unlock/verity"
	"cocoroot/unlock/verity/tree"
)

// lookImage reads the header, the superblock and the top of the hash tree,
// however long the image is; the hash of all of it is for who opens it. The
// parameters are those of the command line that seal wrote beside the image.
func lookImage(s *subject, r *Report) error {
	var params *verity.Params
	from := s.path + ".cmdline"
	_, p, err := cmdline.ReadPolicy(from)
	switch {
	case err == nil:
		params = &p.Image
	case !errors.Is(err, fs.ErrNotExist):
		r.warn("%v", err)
	}
	data, err := inspectTree(s, r, params, from)
	if err == nil {
		err = inspectHeader(s, r, data)
	}
	r.add("commands", stockCommands(s.path, params))
	return err
}

// stockCommands returns the commands with which stock tools check the image, and
// open it with its key: what they say needs no word of ours.
func stockCommands(image string, p *verity.Params) (all []string) {
	add := func(words ...string) { all = append(all, fault.ShellWords(words)) }
	if p != nil {
		add("veritysetup", "verify", "--no-superblock", "--format=1", "--hash=sha256", "--data-block-size=4096", "--hash-block-size=4096",
			fmt.Sprintf("--data-blocks=%d", p.DataBlocks), fmt.Sprintf("--hash-offset=%d", p.HashStart()*verity.BlockSize),
			"--salt="+p.SaltText(), image, image, hex.EncodeToString(p.RootHash[:]))
	}
	add("cryptsetup", "open", "--test-passphrase", "--key-file", image+".key", image)
	add("cryptsetup", "open", "--readonly", "--key-file", image+".key", image, "cocoroot")
	return all
}

// inspectTree looks at what comes after the data, and returns the number of
// bytes of data that the hash covers; 0 when that is not known.
func inspectTree(s *subject, r *Report, beside *verity.Params, from string) (uint64, error) {
	blocks := dataBlocksOf(uint64(s.size))
	if beside != nil {
		blocks = beside.DataBlocks
		r.add("parameters_from", from)
		r.add("parameters", beside.String())
		want := beside.DeviceSize()
		if uint64(s.size) < want || uint64(s.size) > want && !s.block {
			r.problem("%d bytes are not the %d of the parameters in %s", s.size, want, from)
			return 0, nil
		}
	}
	if blocks == 0 {
		if s.block {
			r.warn("no hash tree was looked for: the device has another size than an image, and no command line is beside it")
		} else {
			r.problem("it is cut, or has no hash tree, and the guest opens none without: %d bytes are not data with a tree", s.size)
		}
		return 0, nil
	}
	p := verity.Params{DataBlocks: blocks}
	block, err := s.readAt(int64(p.DataSize()), verity.BlockSize)
	if err != nil {
		return 0, err
	}
	sb, id, err := tree.ParseSuperblock(block)
	switch {
	case err != nil && beside == nil:
		r.problem("at byte %d, where its size says: %v", p.DataSize(), err)
		return 0, nil
	case err != nil:
		r.warn("the guest needs none, but veritysetup dump will not work: %v", err)
	default:
		r.add("superblock_uuid", uuid.UUID(id).String())
		r.add("superblock_salt", sb.SaltText())
		if sb.DataBlocks != blocks || beside != nil && !bytes.Equal(sb.Salt, beside.Salt) {
			r.warn("the superblock has other numbers; the guest believes the command line, and stock tools this")
		}
	}
	r.add("data_blocks", blocks)
	r.add("data_size", p.DataSize())
	r.add("tree_blocks", p.TreeBlocks())
	r.add("device_size", p.DeviceSize())
	if beside == nil || p.TreeBlocks() == 0 {
		return p.DataSize(), nil
	}
	// That the top of the tree and the root hash belong together says nothing about
	// the rest.
	top, err := s.readAt(int64(beside.HashStart())*verity.BlockSize, verity.BlockSize)
	if err != nil {
		return 0, err
	}
	if sum := sha256.Sum256(slices.Concat(beside.Salt, top)); sum != beside.RootHash {
		r.problem("the top of its hash tree has the hash %x, which is not the root hash in %s: it is another image, or was changed", sum, from)
	}
	return p.DataSize(), nil
}

// dataBlocksOf returns the number of data blocks in an image of so many bytes,
// with its superblock and tree; 0 when there is none.
func dataBlocksOf(size uint64) uint64 {
	of := func(n uint64) uint64 { return verity.Params{DataBlocks: n}.DeviceSize() }
	most := min(size/verity.BlockSize, verity.MaxDataBlocks)
	n := uint64(sort.Search(int(most), func(n int) bool { return of(uint64(n)) >= size }))
	if n == 0 || of(n) != size {
		return 0
	}
	return n
}

// inspectHeader checks the LUKS2 header against what the guest accepts. A data
// size of 0 is not known: then the whole file counts.
func inspectHeader(s *subject, r *Report, data uint64) error {
	if data == 0 {
		data = uint64(s.size)
	}
	_, info, err := format.ReadHeader(s, data)
	if _, ok := errors.AsType[*fs.PathError](err); ok {
		return err
	}
	if err != nil {
		r.problem("%v", err)
	}
	if info.UUID == "" {
		return nil
	}
	r.Details = append(r.Details, Fields{
		{"luks_header_size", info.HeaderSize},
		{"luks_uuid", info.UUID},
		{"keyslot", info.Keyslot},
		{"kdf", format.Describe(info.KDF)},
		{"encryption", info.Encryption},
		{"segment", info.Segment},
		{"ciphertext_offset", info.Offset},
		{"ciphertext_size", info.Size},
		{"sector_size", info.SectorSize},
		{"iv_tweak", 0},
	}...)
	return nil
}
