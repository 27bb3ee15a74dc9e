package tree

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"cocoroot/unlock/verity"
)

// The superblock as veritysetup writes it, version 1, all numbers
// little-endian (struct verity_sb in cryptsetup's lib/verity/verity.c;
// offsets and sizes in bytes):
//
//	  0    8  signature "verity\0\0"
//	  8    4  version, 1
//	 12    4  hash type, 1: the salt goes before the block
//	 16   16  UUID, in the order of its text
//	 32   32  hash algorithm, padded with zeros
//	 64    4  data block size
//	 68    4  hash block size
//	 72    8  number of data blocks
//	 80    2  salt size
//	 82    6  zero
//	 88  256  salt, padded with zeros
//	344  168  zero
const (
	superblockSignature = "verity\x00\x00"
	superblockVersion   = 1
	hashType            = 1
	hashAlgorithm       = "sha256"
)

// Superblock returns the block before the tree: 512 bytes of superblock,
// zeros up to BlockSize. It lets stock tools find the parameters and is part
// of nothing that is verified.
func Superblock(p verity.Params, uuid [16]byte) []byte {
	sb := make([]byte, verity.BlockSize)
	copy(sb[0:8], superblockSignature)
	binary.LittleEndian.PutUint32(sb[8:], superblockVersion)
	binary.LittleEndian.PutUint32(sb[12:], hashType)
	copy(sb[16:32], uuid[:])
	copy(sb[32:64], hashAlgorithm)
	binary.LittleEndian.PutUint32(sb[64:], verity.BlockSize)
	binary.LittleEndian.PutUint32(sb[68:], verity.BlockSize)
	binary.LittleEndian.PutUint64(sb[72:], p.DataBlocks)
	binary.LittleEndian.PutUint16(sb[80:], uint16(len(p.Salt)))
	copy(sb[88:88+verity.MaxSaltSize], p.Salt)
	return sb
}

// errSuperblock is returned for a block that is not a superblock as Superblock
// and veritysetup's defaults make it.
var errSuperblock = errors.New("not the superblock of a hash tree with SHA-256 and blocks of 4096 bytes")

// ParseSuperblock reads the block before a tree: the number of data blocks, the
// salt, the UUID. A superblock has no root hash, and nothing vouches for it: it
// is for telling what an image is, never for activating one.
func ParseSuperblock(block []byte) (p verity.Params, uuid [16]byte, err error) {
	if len(block) != verity.BlockSize || !bytes.HasPrefix(block, []byte(superblockSignature)) {
		return p, uuid, errSuperblock
	}
	size := binary.LittleEndian.Uint16(block[80:])
	if size > verity.MaxSaltSize {
		return p, uuid, fmt.Errorf("%w: a salt of %d bytes", errSuperblock, size)
	}
	p = verity.Params{DataBlocks: binary.LittleEndian.Uint64(block[72:]), Salt: bytes.Clone(block[88 : 88+int(size)])}
	copy(uuid[:], block[16:])
	if p.DataBlocks == 0 || p.DataBlocks > verity.MaxDataBlocks {
		return verity.Params{}, uuid, fmt.Errorf("%w: %d data blocks", errSuperblock, p.DataBlocks)
	}
	if !bytes.Equal(Superblock(p, uuid), block) {
		return verity.Params{}, uuid, fmt.Errorf("%w: its other fields differ", errSuperblock)
	}
	return p, uuid, nil
}
