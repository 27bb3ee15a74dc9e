package fsimage

import "io"

func newEROFS(r io.ReaderAt, head []byte) (volume, error) { return nil, unsupported("reading erofs") }
func newExt4(r io.ReaderAt, head []byte) (volume, error)  { return nil, unsupported("reading ext4") }
