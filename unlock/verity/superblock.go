package verity

import "encoding/binary"

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
func (p Params) Superblock(uuid [16]byte) []byte {
	sb := make([]byte, BlockSize)
	copy(sb[0:8], superblockSignature)
	binary.LittleEndian.PutUint32(sb[8:], superblockVersion)
	binary.LittleEndian.PutUint32(sb[12:], hashType)
	copy(sb[16:32], uuid[:])
	copy(sb[32:64], hashAlgorithm)
	binary.LittleEndian.PutUint32(sb[64:], BlockSize)
	binary.LittleEndian.PutUint32(sb[68:], BlockSize)
	binary.LittleEndian.PutUint64(sb[72:], p.DataBlocks)
	binary.LittleEndian.PutUint16(sb[80:], uint16(len(p.Salt)))
	copy(sb[88:88+MaxSaltSize], p.Salt)
	return sb
}
