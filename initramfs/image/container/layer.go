package container

import (
	"archive/tar"
	"bytes"
	"time"

	"cocoroot/unlock/program"
)

// Layer returns the layer that goes over those of the image: cmds/run as first,
// what it starts, and the folders that the image lacks. It is a tar, the same for
// the same input.
func (p Program) Layer(first []byte) ([]byte, error) {
	text, err := p.Spec.Marshal()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(h tar.Header, data []byte) {
		h.ModTime, h.Size = time.Unix(0, 0), int64(len(data))
		if err == nil {
			err = w.WriteHeader(&h)
		}
		if err == nil {
			_, err = w.Write(data)
		}
	}
	for _, name := range append(p.folders, program.Folder) {
		mode := int64(0o755)
		if name == "/tmp" {
			mode = 0o1777
		}
		add(tar.Header{Typeflag: tar.TypeDir, Name: name[1:] + "/", Mode: mode}, nil)
	}
	add(tar.Header{Typeflag: tar.TypeReg, Name: program.Path[1:], Mode: 0o755}, first)
	add(tar.Header{Typeflag: tar.TypeReg, Name: program.File[1:], Mode: 0o400}, text)
	if err == nil {
		err = w.Close()
	}
	return b.Bytes(), err
}
