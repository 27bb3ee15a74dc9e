package main

import (
	"bytes"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"cocoroot/unlock/channel"
	"cocoroot/unlock/program"
)

// openLine opens the port to the host; nil where there is none.
func openLine(path string) *os.File {
	fd, err := channel.OpenSerial(path)
	if err != nil {
		return nil
	}
	return os.NewFile(uintptr(fd), path)
}

// listen calls stop at each line that says so. Whatever else the host sends is
// ignored, and not kept.
func listen(line *os.File, stop func()) {
	var said []byte
	var b [64]byte
	for line != nil {
		n, err := line.Read(b[:])
		if err != nil {
			return
		}
		for _, c := range b[:n] {
			if said = append(said, c); c != '\n' && len(said) <= len(program.Stop) {
				continue
			}
			if bytes.Equal(said, []byte(program.Stop)) {
				stop()
			}
			said = said[:0]
		}
	}
}

// tell writes the exit code to the line, and waits until it is sent.
func tell(line *os.File, code int) {
	if line == nil {
		return
	}
	_, _ = fmt.Fprintf(line, "%s%d\n", program.Exit, code)
	_ = unix.IoctlSetInt(int(line.Fd()), unix.TCSBRK, 1)
}
