package launch

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/image/manifest"
	"cocoroot/unlock/program"
)

// Published returns forwards to ports, each from the same port of this machine, or,
// where that is for root only, from the one that is 8000 higher.
func Published(ports []manifest.Port) []Forward {
	var all []Forward
	for _, p := range ports {
		f := Forward{Host: p.Number, Guest: p.Number, UDP: p.UDP}
		if f.Host < 1024 {
			f.Host += 8000
		}
		all = append(all, f)
	}
	return all
}

// CheckFree checks that this user can listen at the ports of this machine.
func CheckFree(all []Forward) error {
	for _, f := range all {
		var l io.Closer
		var err error
		if address := fmt.Sprintf("127.0.0.1:%d", f.Host); f.UDP {
			l, err = net.ListenPacket("udp4", address)
		} else {
			l, err = net.Listen("tcp4", address)
		}
		if err != nil {
			err = fmt.Errorf("cannot forward this machine's port %d: %w", f.Host, errors.Unwrap(err))
			return fault.Hintf(err, "--forward PORT:%d, without --publish, takes another one, from 1024 up", f.Guest)
		}
		defer l.Close() // so that none is free twice
	}
	return nil
}

// lineArgs returns the options for the port to cmds/run, by the number of a connected
// socket.
func (n names) lineArgs() []string {
	if n.line == "" {
		return nil
	}
	return []string{"-chardev", "socket,id=line,fd=" + n.line, "-device", "isa-serial,chardev=line,index=" + strings.TrimPrefix(program.Line, "ttyS")}
}

// attend asks the program to end once stop is closed, and returns the exit code
// that the guest tells; nil without one. It ends with the connection.
func attend(line net.Conn, stop <-chan struct{}) *int {
	if stop != nil {
		go func() {
			<-stop
			for { // until the guest has come so far that it listens
				if _, err := fmt.Fprint(line, program.Stop); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}()
	}
	const most = len(program.Exit + "255\r")
	var code *int
	var said []byte
	var b [64]byte
	for {
		n, err := line.Read(b[:])
		if err != nil {
			return code
		}
		for _, c := range b[:n] {
			if c != '\n' {
				said = append(said, c)[:min(len(said)+1, most+1)]
				continue
			}
			if text, ok := strings.CutPrefix(strings.TrimSpace(string(said)), program.Exit); ok && code == nil && len(said) <= most {
				if n, err := strconv.ParseUint(text, 10, 8); err == nil {
					code = new(int)
					*code = int(n)
				}
			}
			said = said[:0]
		}
	}
}
