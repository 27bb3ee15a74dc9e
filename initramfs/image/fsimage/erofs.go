package fsimage

import (
	"fmt"
	"io"
	"io/fs"

	"github.com/erofs/go-erofs"
)

// EROFS shows the files of an erofs that Detect lets through.
func EROFS(r io.ReaderAt) (*Node, error) {
	fsys, err := erofs.Open(plainEROFS{r})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return Of(erofsModes{fsys.(fs.ReadLinkFS)})
}

// plainEROFS hides from the library what some versions of mkfs.erofs say in every
// superblock about compression, of which Detect has seen that there is none.
type plainEROFS struct{ io.ReaderAt }

func (p plainEROFS) ReadAt(b []byte, off int64) (int, error) {
	n, err := p.ReaderAt.ReadAt(b, off)
	if off == secondSuper && n >= erofsSuper {
		b[80] &^= erofsZeroPadding
		clear(b[84:86]) // how far LZ4 looks back
	}
	return n, err
}

// erofsModes has the modes of inodes: the library takes a file's type from the
// folder that it is in, where the kernel does not.
type erofsModes struct{ fs.ReadLinkFS }

func (m erofsModes) Lstat(name string) (fs.FileInfo, error) {
	fi, err := m.ReadLinkFS.Lstat(name)
	if err != nil {
		return nil, err
	}
	return erofsMode{fi}, nil
}

type erofsMode struct{ fs.FileInfo }

func (m erofsMode) Mode() fs.FileMode { return m.Sys().(*erofs.Stat).Mode }
