package format

import (
	"crypto/aes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"

	"golang.org/x/crypto/pbkdf2"
	"golang.org/x/crypto/xts"

	"cocoroot/unlock/luks2"
	"cocoroot/unlock/luks2/internal/layout"
	"cocoroot/unlock/secmem"
)

// Errors returned by VolumeKey.
var (
	ErrPassphrase = errors.New("the passphrase does not open the keyslot")
	errHash       = errors.New("the header has another hash than SHA-256")
)

// VolumeKey opens the keyslot of a header that Check has accepted, and returns
// the volume key. The key is the caller's to close. It is for looking at an
// image where there is no dm-crypt: the guest has luks.go do this.
func VolumeKey(r io.ReaderAt, header []byte, info luks2.Info, passphrase []byte) (*secmem.Buffer, error) {
	var doc struct {
		Keyslots map[string]struct {
			KDF struct {
				Hash string
				Salt []byte // base64 in JSON
			}
			AF   struct{ Hash string }
			Area struct {
				Offset int64 `json:",string"`
			}
		}
		Digests map[string]struct {
			Hash         string
			Iterations   int
			Salt, Digest []byte
		}
	}
	text, _, _ := layout.Text(header)
	if err := json.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("cannot read the header: %w", err)
	}
	slot := doc.Keyslots[strconv.Itoa(info.Keyslot)]
	if slot.AF.Hash != "sha256" || slot.KDF.Hash != "" && slot.KDF.Hash != "sha256" {
		return nil, errHash
	}
	area := make([]byte, layout.Stripes*luks2.KeySize)
	defer clear(area)
	if _, err := r.ReadAt(area, slot.Area.Offset); err != nil {
		return nil, fmt.Errorf("cannot read the keyslot: %w", err)
	}
	if err := crypt(area, info.KDF, passphrase, slot.KDF.Salt, (*xts.Cipher).Decrypt); err != nil {
		return nil, err
	}
	key, err := secmem.New(luks2.KeySize)
	if err != nil {
		return nil, err
	}
	merge(key.Bytes(), area)
	err = ErrPassphrase
	for _, d := range doc.Digests { // Check lets one through
		if d.Hash != "sha256" {
			err = errHash
		} else if subtle.ConstantTimeCompare(pbkdf2.Key(key.Bytes(), d.Salt, d.Iterations, sha256.Size, sha256.New), d.Digest) == 1 {
			return key, nil
		}
	}
	key.Close()
	return nil, err
}

// Start returns the first n bytes of the data that the header of info describes, on
// the device that r reads; fewer, where it has fewer. A sector's tweak is its distance
// from the data's start in units of 512 bytes (dm-crypt's plain64). A copy of the
// key's schedule lies on the Go heap until the collector reuses it.
func Start(r io.ReaderAt, info luks2.Info, key []byte, n uint64) ([]byte, error) {
	c, err := xts.NewCipher(aes.NewCipher, key)
	if err != nil {
		return nil, fmt.Errorf("cannot decrypt: %w", err)
	}
	data := make([]byte, min((n+info.SectorSize-1)/info.SectorSize*info.SectorSize, info.Size))
	if _, err := r.ReadAt(data, int64(info.Offset)); err != nil {
		return nil, fmt.Errorf("cannot read encrypted data: %w", err)
	}
	for at := uint64(0); at < uint64(len(data)); at += info.SectorSize {
		sector := data[at : at+info.SectorSize]
		c.Decrypt(sector, sector, at/512)
	}
	return data[:min(n, info.Size)], nil
}
