package fsimage

import (
	"fmt"
	"io"
)

// Of what is read in small pieces, 4 MiB at most are kept.
const (
	pageSize  = 4096 // bytes
	pagesKept = 1024
)

// pages reads an image's metadata, which lies together, page by page.
type pages struct {
	r    io.ReaderAt
	kept map[int64][]byte // by number
}

func newPages(r io.ReaderAt) *pages { return &pages{r, make(map[int64][]byte)} }

// at returns n bytes.
func (p *pages) at(off int64, n int) ([]byte, error) {
	if off < 0 {
		return nil, corrupt("it points to byte %d", off)
	}
	out := make([]byte, 0, n)
	for len(out) < n {
		at := off + int64(len(out))
		page, err := p.page(at / pageSize)
		if err != nil {
			return nil, err
		}
		if at%pageSize >= int64(len(page)) {
			return nil, corrupt("it points to byte %d, behind its end", at)
		}
		page = page[at%pageSize:]
		out = append(out, page[:min(len(page), n-len(out))]...)
	}
	return out, nil
}

// page returns a page, the last of which may be short.
func (p *pages) page(number int64) ([]byte, error) {
	if b, ok := p.kept[number]; ok {
		return b, nil
	}
	b := make([]byte, pageSize)
	n, err := p.r.ReadAt(b, number*pageSize)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("cannot read the file system: %w", err)
	}
	if len(p.kept) >= pagesKept {
		clear(p.kept)
	}
	p.kept[number] = b[:n]
	return b[:n], nil
}

// readAt reads exactly n bytes of the image.
func readAt(r io.ReaderAt, off int64, n int) ([]byte, error) {
	b := make([]byte, n)
	return b, readInto(r, b, off)
}

// readInto fills b from the image.
func readInto(r io.ReaderAt, b []byte, off int64) error {
	if off < 0 {
		return corrupt("it points to byte %d", off)
	}
	if n, err := r.ReadAt(b, off); n < len(b) {
		if err == io.EOF {
			return corrupt("it points to byte %d, behind its end", off+int64(len(b)))
		}
		return fmt.Errorf("cannot read the file system: %w", err)
	}
	return nil
}
