package fsimage

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"

	"cocoroot/unlock/policy"
)

// Bounds of an erofs that is looked through.
const (
	maxFolder  = 16 << 20 // bytes that a folder has on disk
	maxEntries = 4 << 20
	maxFolders = 256 // in one another
)

// CheckEROFS walks through the folders of an erofs, and returns how many bytes its
// files have together. It returns ErrCorrupt for what fsck.erofs (1.5) would follow out
// of the folder that it unpacks to, or without end: names with a slash, folders in
// themselves.
func CheckEROFS(r io.ReaderAt) (int64, error) {
	kind, _, err := Detect(r)
	if err != nil {
		return 0, err
	}
	if kind != policy.EROFS {
		return 0, ErrUnknown
	}
	head, err := readHead(r)
	if err != nil {
		return 0, err
	}
	w := erofsWalk{r: r, seen: map[uint64]bool{}}
	if w.sb, err = parseEROFS(head); err != nil {
		return 0, err
	}
	err = w.folder(w.sb.root, 0)
	return w.bytes, err
}

type erofsWalk struct {
	r       io.ReaderAt
	sb      erofsSB
	seen    map[uint64]bool // folders
	entries int
	bytes   int64
}

// erofsInode is what is used of an inode (fs/erofs/erofs_fs.h of Linux 6.12,
// struct erofs_inode_compact and _extended). Inodes lie in slots of 32 bytes; a
// slot's number is the inode's.
type erofsInode struct {
	mode   fs.FileMode
	size   int64
	inline bool  // the rest that fills no block follows the inode
	after  int64 // where that is, in the image
	block  int64 // the first one
}

func (w *erofsWalk) read(at int64, n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := w.r.ReadAt(b, at); err == io.EOF {
		return nil, corrupt("it ends before byte %d", at+int64(n))
	} else if err != nil {
		return nil, fmt.Errorf("cannot read the file system: %w", err)
	}
	return b, nil
}

func (w *erofsWalk) inode(nid uint64) (erofsInode, error) {
	if nid >= uint64(w.sb.length)/32 {
		return erofsInode{}, corrupt("the inode %d", nid)
	}
	at := w.sb.meta + int64(nid)*32
	b, err := w.read(at, 32)
	if err != nil {
		return erofsInode{}, err
	}
	format, attributes := le.Uint16(b), int64(le.Uint16(b[2:]))
	in := erofsInode{mode: UnixMode(le.Uint16(b[4:])), size: int64(le.Uint32(b[8:])), block: int64(le.Uint32(b[16:])), after: at + 32}
	if format&1 != 0 { // the larger form
		if b, err = w.read(at, 64); err != nil {
			return in, err
		}
		in.size, in.after = int64(le.Uint64(b[8:])), at+64
	}
	if attributes > 0 {
		in.after += 12 + 4*(attributes-1)
	}
	const plain, inline = 0, 2 // EROFS_INODE_FLAT_*
	layout := format >> 1 & 7
	in.inline = layout == inline
	switch {
	case in.mode.IsDir() && layout != plain && !in.inline:
		return in, unsupported("erofs with compressed folders")
	case in.mode.IsDir() && (in.size < 0 || in.size > maxFolder), in.size < 0:
		return in, corrupt("%d bytes in one inode", uint64(in.size))
	}
	return in, nil
}

// folder walks through a folder: in each block first its entries, whose number
// the first one's name tells, and then their names.
func (w *erofsWalk) folder(nid uint64, depth int) error {
	in, err := w.inode(nid)
	switch {
	case err != nil:
		return err
	case !in.mode.IsDir():
		return corrupt("its root is no folder")
	case w.seen[nid] || depth > maxFolders:
		return corrupt("a folder is in itself, or in two others")
	}
	w.seen[nid] = true
	block := int64(1) << w.sb.bits
	for off := int64(0); off < in.size; off += block {
		at := in.block<<w.sb.bits + off
		if in.inline && off+block > in.size {
			at = in.after
		}
		b, err := w.read(at, int(min(block, in.size-off)))
		if err == nil {
			err = w.names(b, depth)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// names looks at the entries (struct erofs_dirent) of a folder's block.
func (w *erofsWalk) names(b []byte, depth int) error {
	const size = 12
	if len(b) < size {
		return corrupt("a folder's block of %d bytes", len(b))
	}
	first := int(le.Uint16(b[8:]))
	if first < size || first%size != 0 || first > len(b) {
		return corrupt("a folder's block with names from byte %d on", first)
	}
	for i := 0; i < first; i += size {
		from, to, last := int(le.Uint16(b[i+8:])), len(b), i+size == first
		if !last {
			to = int(le.Uint16(b[i+size+8:]))
		}
		if from < first || from >= to || to > len(b) {
			return corrupt("a folder with a name from byte %d to %d", from, to)
		}
		name := b[from:to]
		if end := bytes.IndexByte(name, 0); last && end >= 0 {
			name = name[:end]
		}
		if string(name) == "." || string(name) == ".." {
			continue
		}
		if w.entries++; w.entries > maxEntries || !ValidName(string(name)) {
			return corrupt("a folder has the name %.64q", name)
		}
		nid := le.Uint64(b[i:])
		in, err := w.inode(nid)
		switch {
		case err != nil:
			return err
		case in.mode.IsDir():
			err = w.folder(nid, depth+1)
		case in.mode.IsRegular():
			if w.bytes += in.size; w.bytes < 0 {
				err = corrupt("files longer than any disk")
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}
