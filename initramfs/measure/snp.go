package measure

import (
	"bytes"
	"crypto/sha512"
)

// pageType is the type of a page in an SEV-SNP launch (AMD SEV-SNP ABI 56860,
// SNP_LAUNCH_UPDATE, PAGE_TYPE).
type pageType uint8

// The page types that are used.
const (
	pageNormal     pageType = 1 // measured with its contents
	pageVMSA       pageType = 2 // the same, for a virtual CPU's VMSA
	pageZero       pageType = 3 // zero, measured as such
	pageUnmeasured pageType = 4 // its contents are not measured; GCE's memory of the firmware
	pageSecrets    pageType = 5 // filled by the platform; measured by its address
	pageCPUID      pageType = 6 // filled by the host and checked by the platform; measured by its address
)

// MarshalText returns the name of the type.
func (t pageType) MarshalText() ([]byte, error) {
	return []byte([]string{"", "normal", "vmsa", "zero", "unmeasured", "secrets", "cpuid"}[t]), nil
}

const (
	// pageInfoSize is the size in bytes of PAGE_INFO (56860, "Layout of the
	// PAGE_INFO structure"), little-endian: digest so far (48), digest of the
	// contents or zeros (48), u16 size, u8 page type, u8 IMI, u8 VMPL3, 2 and
	// 1 permissions, u8 reserved, u64 guest-physical address.
	pageInfoSize = 0x70

	// vmsaAddress is the address with which VMSAs are measured: all ones, as
	// far as a page's address has bits (51:12).
	vmsaAddress = 0xfffffffff000
)

// ledger is an SEV-SNP launch under way.
type ledger struct {
	digest [sha512.Size384]byte // so far; zeros before the first page
	result *Measurement
}

// page measures one page. contents is the SHA-384 of what is in it, or zeros
// for a type that is measured without.
func (l *ledger) page(t pageType, address uint64, contents [sha512.Size384]byte) {
	var info [pageInfoSize]byte
	copy(info[:], l.digest[:])
	copy(info[48:], contents[:])
	le.PutUint16(info[96:], pageInfoSize)
	info[98] = byte(t)
	le.PutUint64(info[104:], address)
	l.digest = sha512.Sum384(info[:])
}

// pages measures data, a number of whole pages, as normal pages. Most of a
// firmware is padding, so a page that repeats the one before is not hashed
// again.
func (l *ledger) pages(name string, address uint64, data []byte) {
	var last []byte
	var contents [sha512.Size384]byte
	for at := 0; at < len(data); at += pageSize {
		page := data[at : at+pageSize]
		if !bytes.Equal(page, last) {
			contents = sha512.Sum384(page)
		}
		last = page
		l.page(pageNormal, address+uint64(at), contents)
	}
	l.note(name, pageNormal, address, uint64(len(data)))
}

// blank measures pages without contents.
func (l *ledger) blank(name string, t pageType, address, size uint64) {
	for at := uint64(0); at < size; at += pageSize {
		l.page(t, address+at, [sha512.Size384]byte{})
	}
	l.note(name, t, address, size)
}

func (l *ledger) note(name string, t pageType, address, size uint64) {
	digest := l.digest
	l.result.add(name, t, address, size, digest[:])
}
