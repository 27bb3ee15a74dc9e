// Package packet builds what LAUNCH_SECRET takes: a header of 52 bytes and the
// encrypted secret table (SEV API specification, AMD publication 55766,
// LAUNCH_SECRET). All numbers are little-endian.
//
// A packet is no secret: only the PSP that made the measurement can open it,
// and only for that one launch. It does not say what became of the secret, nor
// whether the guest was the right one: that has to be known before.
package packet

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"

	"cocoroot/initramfs/release/session"
)

const (
	// HeaderSize is the size of a packet's header in bytes.
	HeaderSize = 52
	// MaxPayload is the most that LAUNCH_SECRET takes, in bytes.
	MaxPayload = 16 << 10
	// alignment is what a payload's size is a multiple of, in bytes.
	alignment = 16
)

var (
	errHeader  = errors.New("a packet header has 52 bytes and no flags")
	errPayload = errors.New("a packet's payload is a multiple of 16 bytes, at most 16 KiB")
)

// Packet is a header and an encrypted table.
type Packet struct {
	Header  Header
	Payload []byte
}

// Header is the packet header: flags u32, zero as nothing is compressed, IV
// and MAC.
type Header struct {
	IV  [aes.BlockSize]byte
	MAC [32]byte
}

// Bytes returns the 52 bytes.
func (h Header) Bytes() []byte {
	b := make([]byte, 4, HeaderSize) // the flags
	return append(append(b, h.IV[:]...), h.MAC[:]...)
}

// ParseHeader reads a header that came back from a file.
func ParseHeader(b []byte) (Header, error) {
	var h Header
	if len(b) != HeaderSize || binary.LittleEndian.Uint32(b) != 0 {
		return h, errHeader
	}
	copy(h.IV[:], b[4:])
	copy(h.MAC[:], b[20:])
	return h, nil
}

// Parse reads a packet that came back from a file.
func Parse(header, payload []byte) (Packet, error) {
	h, err := ParseHeader(header)
	if n := len(payload); err == nil && (n == 0 || n%alignment != 0 || n > MaxPayload) {
		err = fmt.Errorf("%w: this one has %d", errPayload, n)
	}
	return Packet{h, payload}, err
}

// Seal encrypts a secret table for the launch with that measurement, which
// must have been checked. The table is padded with zeros to a multiple of 16
// bytes; a kernel ignores them, for they lie after the table's length.
func Seal(keys *session.Keys, table []byte, m session.Measurement) (Packet, error) {
	var iv [aes.BlockSize]byte
	rand.Read(iv[:]) // never fails
	return seal(keys, table, m, iv)
}

// seal is Seal with an IV, which must not be used twice under the same keys.
func seal(keys *session.Keys, table []byte, m session.Measurement, iv [aes.BlockSize]byte) (Packet, error) {
	size := (len(table) + alignment - 1) / alignment * alignment
	if size == 0 || size > MaxPayload {
		return Packet{}, fmt.Errorf("cannot encrypt the secret table: %w: this one has %d", errPayload, size)
	}
	block, err := aes.NewCipher(keys.TEK.Bytes())
	if err != nil {
		return Packet{}, fmt.Errorf("cannot encrypt the secret table: %w", err)
	}
	p := Packet{Header: Header{IV: iv}, Payload: make([]byte, size)}
	// The plaintext goes from the table's memory straight into ciphertext.
	stream := cipher.NewCTR(block, iv[:])
	n := len(table)
	stream.XORKeyStream(p.Payload[:n], table)
	stream.XORKeyStream(p.Payload[n:], p.Payload[n:])

	const context = 0x01 // what begins the MAC of a packet
	length := binary.LittleEndian.AppendUint32(nil, uint32(size))
	p.Header.MAC = keys.MAC([]byte{context, 0, 0, 0, 0}, iv[:], length, length, p.Payload, m.MAC[:])
	return p, nil
}
