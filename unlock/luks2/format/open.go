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

// Reader decrypts the data of an image as it is read.
type Reader struct {
	r      io.ReaderAt
	info   luks2.Info
	cipher *xts.Cipher
}

// NewReader returns a reader of the data that the header of info describes, on
// the device that r reads. A copy of the key's schedule lies on the Go heap
// until the collector reuses it.
func NewReader(r io.ReaderAt, info luks2.Info, key []byte) (*Reader, error) {
	c, err := xts.NewCipher(aes.NewCipher, key)
	if err != nil {
		return nil, fmt.Errorf("cannot decrypt: %w", err)
	}
	return &Reader{r, info, c}, nil
}

// ReadAt reads plaintext, which ends at Info.Size. A sector's tweak is its
// distance from the data's start in units of 512 bytes (dm-crypt's plain64).
func (r *Reader) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, errors.New("cannot read before the start")
	}
	sector := make([]byte, r.info.SectorSize)
	for n < len(p) {
		at := uint64(off) + uint64(n)
		if at >= r.info.Size {
			return n, io.EOF
		}
		start := at / r.info.SectorSize * r.info.SectorSize
		if m, err := r.r.ReadAt(sector, int64(r.info.Offset+start)); m < len(sector) {
			return n, fmt.Errorf("cannot read encrypted data: %w", err)
		}
		r.cipher.Decrypt(sector, sector, start/512)
		n += copy(p[n:], sector[at-start:])
	}
	return n, nil
}
