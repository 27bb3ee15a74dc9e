package tree

import (
	"crypto/sha256"

	"cocoroot/unlock/verity"
)

// appendDigests appends the digest of every block in data to dst. len(data)
// must be a multiple of verity.BlockSize. Hash type 1 is SHA-256 over the salt, then
// the block.
//
// Each round of SHA-256 waits for the one before, so a processor that has
// instructions for it is idle half of the time while it hashes one message,
// as crypto/sha256 does. The assembly in digest_amd64.s hashes two blocks side
// by side. Where the instructions are missing, and with the build tag purego,
// crypto/sha256 does the work; it is also what the tests compare with.
func appendDigests(dst, data, salt []byte) []byte {
	if fast() {
		return appendFast(dst, data, salt)
	}
	return appendPlain(dst, data, salt)
}

func appendPlain(dst, data, salt []byte) []byte {
	h := sha256.New()
	for ; len(data) > 0; data = data[verity.BlockSize:] {
		h.Reset()
		h.Write(salt)
		h.Write(data[:verity.BlockSize])
		dst = h.Sum(dst)
	}
	return dst
}
