package tree

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"cocoroot/unlock/verity"
)

// A superblock as veritysetup writes it, all numbers little-endian (struct
// verity_sb in cryptsetup's lib/verity/verity.c; 512 bytes).
type superblock struct {
	Signature                    [8]byte  // "verity\0\0"
	Version                      uint32   // 1
	HashType                     uint32   // 1: the salt goes before the block
	UUID                         [16]byte // in the order of its text
	Algorithm                    [32]byte // padded with zeros
	DataBlockSize, HashBlockSize uint32   // bytes
	DataBlocks                   uint64
	SaltSize                     uint16 // bytes
	_                            [6]byte
	Salt                         [verity.MaxSaltSize]byte // padded with zeros
	_                            [168]byte
}

const superblockSignature = "verity\x00\x00"

// Superblock returns the block before the tree: 512 bytes of superblock,
// zeros up to BlockSize. It lets stock tools find the parameters and is part
// of nothing that is verified.
func Superblock(p verity.Params, uuid [16]byte) []byte {
	sb := superblock{
		Version: 1, HashType: 1, UUID: uuid, DataBlockSize: verity.BlockSize, HashBlockSize: verity.BlockSize,
		DataBlocks: p.DataBlocks, SaltSize: uint16(len(p.Salt)),
	}
	copy(sb.Signature[:], superblockSignature)
	copy(sb.Algorithm[:], "sha256")
	copy(sb.Salt[:], p.Salt)
	block := make([]byte, verity.BlockSize)
	if _, err := binary.Encode(block, binary.LittleEndian, sb); err != nil {
		panic(err) // it has a fixed size, and room
	}
	return block
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
	var sb superblock
	if _, err := binary.Decode(block, binary.LittleEndian, &sb); err != nil {
		return p, uuid, fmt.Errorf("%w: %w", errSuperblock, err)
	}
	if sb.SaltSize > verity.MaxSaltSize {
		return p, uuid, fmt.Errorf("%w: a salt of %d bytes", errSuperblock, sb.SaltSize)
	}
	p, uuid = verity.Params{DataBlocks: sb.DataBlocks, Salt: sb.Salt[:sb.SaltSize]}, sb.UUID
	if p.DataBlocks == 0 || p.DataBlocks > verity.MaxDataBlocks {
		return verity.Params{}, uuid, fmt.Errorf("%w: %d data blocks", errSuperblock, p.DataBlocks)
	}
	if !bytes.Equal(Superblock(p, uuid), block) {
		return verity.Params{}, uuid, fmt.Errorf("%w: its other fields differ", errSuperblock)
	}
	return p, uuid, nil
}
