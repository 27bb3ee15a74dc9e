package state

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"

	"cocoroot/unlock/volume"
)

// A state disk begins with two copies of the header; the volume comes after them.
//
//	      0  the header, HeaderSize bytes
//	512 KiB  the same again
//	  1 MiB  the volume, to the end of the disk
const (
	HeaderSize = volume.BlockSize
	SecondCopy = 512 << 10 // where the second one begins, in bytes
	AreaStart  = 1 << 20   // where the volume begins, in bytes
)

// copies are the offsets of the header in bytes.
var copies = [2]int64{0, SecondCopy}

// Magic begins a header.
const Magic = "cocoroot state\r\n"

// version is that of the format. It stands for the places, the cipher and the
// file system too.
const version = 1

// The fields of a header: offsets in bytes, numbers little-endian. All else is
// zero. The HMAC-SHA-256 is over all that comes before it.
const (
	versionAt  = 16 // u32
	sectionsAt = 20 // u32, of dm-integrity's journal
	nameAt     = 24 // padded with zeros
	saltAt     = 56
	macAt      = HeaderSize - sha256.Size

	nameSize = saltAt - nameAt
	saltSize = 32
)

// Header says how a state lies on its disk.
type Header struct {
	Name     string
	Sections uint32         // of the journal; see volume.Layout
	Salt     [saltSize]byte // for the keys of the blocks; chosen when the state was created
}

// Errors for a block that is not the header of the state.
var (
	errMAC     = errors.New("it is not a header that the key has made")
	errVersion = errors.New("it is a header of another version of cocoroot")
)

// seal returns the block, with its HMAC.
func (h Header) seal(key []byte) []byte {
	b := h.encode()
	copy(b[macAt:], mac(key, b))
	return b
}

// encode returns the block without the HMAC.
func (h Header) encode() []byte {
	b := make([]byte, HeaderSize)
	copy(b, Magic)
	binary.LittleEndian.PutUint32(b[versionAt:], version)
	binary.LittleEndian.PutUint32(b[sectionsAt:], h.Sections)
	copy(b[nameAt:saltAt], h.Name)
	copy(b[saltAt:], h.Salt[:])
	return b
}

func mac(key, block []byte) []byte {
	m := hmac.New(sha256.New, key)
	m.Write(block[:macAt])
	return m.Sum(nil)
}

// unseal reads a block of the disk: nothing in it is looked at before its HMAC is
// right.
func unseal(block, key []byte) (Header, error) {
	if len(block) != HeaderSize || !hmac.Equal(mac(key, block), block[macAt:]) {
		return Header{}, errMAC
	}
	return Decode(block)
}

// Decode reads a header without checking its HMAC: anybody can have written it.
func Decode(block []byte) (Header, error) {
	if len(block) != HeaderSize || !bytes.HasPrefix(block, []byte(Magic)) || binary.LittleEndian.Uint32(block[versionAt:]) != version {
		return Header{}, errVersion
	}
	name, _, _ := bytes.Cut(block[nameAt:saltAt], []byte{0})
	h := Header{Name: string(name), Sections: binary.LittleEndian.Uint32(block[sectionsAt:]), Salt: [saltSize]byte(block[saltAt:])}
	if !bytes.Equal(h.encode()[:macAt], block[:macAt]) {
		return Header{}, errVersion
	}
	return h, nil
}

// layout returns where the volume lies.
func (h Header) layout() volume.Layout {
	return volume.Layout{Start: AreaStart, Journal: true, Sections: h.Sections}
}

// choose returns the one header of the two copies, and which of the copies have it.
// Two different ones that are both the key's are an error: the disk is put together
// from two.
func choose(blocks [2][]byte, key []byte) (h Header, has [2]bool, err error) {
	for i, b := range blocks {
		one, err := unseal(b, key)
		if errors.Is(err, errMAC) {
			continue
		}
		if err == nil && has[0] && one != h {
			err = errors.New("the two copies are headers of two lives of the state")
		}
		if err != nil {
			return Header{}, has, err
		}
		h, has[i] = one, true
	}
	if has == [2]bool{} {
		return Header{}, has, errMAC
	}
	return h, has, nil
}
