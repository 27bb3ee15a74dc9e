// Package verity has the parameters of a dm-verity hash tree, as they appear on
// the measured command line and as the kernel verifies with them: dm-verity
// checks each block of a device that it reads against a tree of hashes, and the
// tree against its top, the root hash. Parse reads the parameters, String writes
// them. The owner's side, verity/tree, builds the trees.
//
// The format is dm-verity's version 1 with SHA-256 (kernel
// Documentation/admin-guide/device-mapper/verity.rst): the salt goes before
// the block, digests are packed without gaps in hash blocks of 4096 bytes,
// the level next to the root comes first on disk.
//
// A root hash says that bytes are unchanged. It does not hide them, and it
// does not say that they are the newest. A block is checked when it is read,
// so a device that was activated may still hold blocks that are not intact.
package verity

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

const (
	// BlockSize is the size in bytes of a data block and of a hash block.
	BlockSize = 4096
	// DigestSize is the size in bytes of a SHA-256 digest.
	DigestSize = 32
	// MaxSaltSize is the largest salt in bytes that dm-verity's superblock holds.
	MaxSaltSize = 256
	// MaxDataBlocks bounds what is measured: 16 TiB of 4096-byte blocks.
	MaxDataBlocks = 1 << 32
)

// errParams is returned for a text that is not a valid set of parameters.
var errParams = errors.New("not of the form verity:sha256:4096:DATABLOCKS:SALT:ROOTHASH")

// Params is everything that the kernel needs to verify a device. On the device,
// the data comes first, then one block with a superblock, then the hash tree.
type Params struct {
	DataBlocks uint64           // number of data blocks, at least 1
	Salt       []byte           // 0 to MaxSaltSize bytes
	RootHash   [DigestSize]byte // digest of the tree's top block
}

// Parse reads the form of the parameters on the measured command
// line: verity:sha256:BLOCKSIZE:DATABLOCKS:SALT:ROOTHASH, numbers in decimal,
// bytes in lower-case hex, "-" for no salt. Only the canonical text is
// accepted: String of the result is always s.
func Parse(s string) (Params, error) {
	var p Params
	if len(s) > 1024 {
		return p, fmt.Errorf("%w: more than 1024 characters", errParams)
	}
	f := strings.Split(s, ":")
	if len(f) != 6 || f[0] != "verity" || f[1] != "sha256" || f[2] != strconv.Itoa(BlockSize) {
		return p, errParams
	}
	n, err := strconv.ParseUint(f[3], 10, 64)
	if err != nil || n == 0 || n > MaxDataBlocks {
		return p, fmt.Errorf("%w: %q is not a number of blocks from 1 to %d", errParams, f[3], uint64(MaxDataBlocks))
	}
	p.DataBlocks = n
	if f[4] != "-" {
		if p.Salt, err = hex.DecodeString(f[4]); err != nil || len(p.Salt) == 0 || len(p.Salt) > MaxSaltSize {
			return Params{}, fmt.Errorf("%w: salt is not 1 to %d bytes in hex, or -", errParams, MaxSaltSize)
		}
	}
	root, err := hex.DecodeString(f[5])
	if err != nil || len(root) != DigestSize {
		return Params{}, fmt.Errorf("%w: root hash is not %d bytes in hex", errParams, DigestSize)
	}
	copy(p.RootHash[:], root)
	if p.String() != s {
		return Params{}, fmt.Errorf("%w: not in canonical form (lower-case hex, no leading zeros)", errParams)
	}
	return p, nil
}

// String returns the canonical text.
func (p Params) String() string {
	return fmt.Sprintf("verity:sha256:%d:%d:%s:%x", BlockSize, p.DataBlocks, p.SaltText(), p.RootHash)
}

// SaltText returns the salt in hex, or "-" for none, as the kernel's table
// and veritysetup have it.
func (p Params) SaltText() string {
	if len(p.Salt) == 0 {
		return "-"
	}
	return hex.EncodeToString(p.Salt)
}

// DataSize returns the number of bytes that the root hash covers.
func (p Params) DataSize() uint64 { return p.DataBlocks * BlockSize }

// HashStart returns the number of the hash tree's first block on the device:
// one block after the data is the superblock, which nobody needs to trust.
func (p Params) HashStart() uint64 { return p.DataBlocks + 1 }

// Levels returns the number of blocks in each level of the hash tree, the
// leaves first. A level holds one digest for every block of the level below,
// until one block is left. A single data block has no tree: its digest is the
// root hash itself (verity_ctr in the kernel's drivers/md/dm-verity-target.c).
func (p Params) Levels() []uint64 {
	const perBlock = BlockSize / DigestSize
	var levels []uint64
	for n := p.DataBlocks; n > 1; {
		n = (n + perBlock - 1) / perBlock
		levels = append(levels, n)
	}
	return levels
}

// TreeBlocks returns the number of blocks in the hash tree.
func (p Params) TreeBlocks() uint64 {
	var total uint64
	for _, n := range p.Levels() {
		total += n
	}
	return total
}

// DeviceSize returns the bytes of data, superblock and tree together.
func (p Params) DeviceSize() uint64 {
	return (p.HashStart() + p.TreeBlocks()) * BlockSize
}

// MarshalText implements encoding.TextMarshaler.
func (p Params) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Params) UnmarshalText(b []byte) error {
	q, err := Parse(string(b))
	if err != nil {
		return err
	}
	*p = q
	return nil
}
