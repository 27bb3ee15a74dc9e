package launch

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cocoroot/initramfs/oracle"
	"cocoroot/unlock/policy"
)

// asking returns a launch of a guest that asks over a channel.
func asking(channel policy.Channel) Config {
	c := confidential(ModeSNP)
	c.Firmware, c.Kernel = "f", "k"
	c.Channel, c.ChannelSocket = channel, "/run/vm/a,b"
	return c
}

func TestParseID(t *testing.T) {
	text := func(b []byte) []byte { return []byte(base64.StdEncoding.EncodeToString(b) + "\n") }
	block, auth := bytes.Repeat([]byte{1}, 96), make([]byte, 4096)
	wrapped := bytes.Join(slices.Collect(slices.Chunk(text(auth), 76)), []byte("\n"))
	for i, want := range map[int]bool{0: false, 0x87f: false, 0x880: true, 0xc83: true, 0xc84: false} {
		changed := bytes.Clone(auth)
		changed[i] = 1
		id, err := ParseID(text(block), text(changed))
		if err != nil || id.AuthorKey != want || id.Block+"\n" != string(text(block)) || id.Auth+"\n" != string(text(changed)) {
			t.Errorf("byte %#x: %v, or not what was read; want an author key: %v", i, err, want)
		}
	}
	if id, err := ParseID(text(block), wrapped); err != nil || strings.Contains(id.Auth, "\n") {
		t.Errorf("with line breaks: %+v, %v", id, err)
	}
	for name, pair := range map[string][2][]byte{
		"short block": {text(block[1:]), text(auth)}, "long block": {text(append(block, 1)), text(auth)},
		"short auth": {text(block), text(auth[1:])}, "long auth": {text(block), text(append(auth, 1))},
		"exchanged": {text(auth), text(block)}, "raw": {block, auth}, "empty": {nil, nil},
	} {
		if id, err := ParseID(pair[0], pair[1]); err == nil {
			t.Errorf("%s: %+v; want an error", name, id)
		}
	}
}

func TestScriptSaysHowTheGuestAsks(t *testing.T) {
	for name, tc := range map[string]struct {
		channel policy.Channel
		want    string
	}{
		"none":   {policy.Channel{}, "SECRET-NONE"},
		"serial": {policy.Channel{Kind: policy.Serial, Name: "ttyS2"}, "collect --channel SOCKET"},
		"tcp":    {policy.Channel{Kind: policy.TCP, Address: policy.IPv4{10, 0, 2, 2}, Port: 443}, "at tcp:10.0.2.2:443. Add a network card"},
		"vsock":  {policy.Channel{Kind: policy.Vsock, CID: 2, Port: 7}, "guest-cid=N"},
	} {
		c := asking(tc.channel)
		if !c.AsksAtSocket() {
			c.ChannelSocket = ""
		}
		if text, err := Script(os.DirFS("../../templates"), c, Version{10, 0}); err != nil || !strings.Contains(string(text), tc.want) {
			t.Errorf("%s: %v\n%s\nwant %q in it", name, err, text, tc.want)
		}
	}
}

// TestQEMUMakesTheChannel gives the port's options to QEMU, which says over its
// monitor that the port is there, and takes a connection at the socket.
func TestQEMUMakesTheChannel(t *testing.T) {
	qemu := oracle.Tool(t, "qemu-system-x86_64")
	for _, tc := range []struct {
		channel policy.Channel
		want    string
	}{
		{policy.Channel{Kind: policy.Serial, Name: "ttyS2"}, "index = 2"},
		{policy.Channel{Kind: policy.Virtio, Name: "org.cocoroot.release"}, `name = "org.cocoroot.release"`},
	} {
		c := asking(tc.channel)
		c.ChannelSocket = filepath.Join(t.TempDir(), "a,b")
		args := append([]string{"-M", "q35", "-accel", "tcg", "-nodefaults", "-display", "none", "-S", "-monitor", "stdio"}, c.channel()...)
		cmd := exec.CommandContext(within(t, time.Minute), qemu, args...)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var tree strings.Builder
		for lines := bufio.NewScanner(out); lines.Scan(); {
			tree.WriteString(lines.Text() + "\n")
			if strings.Contains(lines.Text(), "monitor - type") { // its sockets are made
				if conn, err := net.Dial("unix", c.ChannelSocket); err != nil {
					t.Errorf("%s: %v", tc.channel, err)
				} else {
					defer conn.Close()
				}
				if _, err := in.Write([]byte("info qtree\nquit\n")); err != nil { // not earlier: its end takes the socket along
					t.Error(err)
				}
			}
		}
		if err := cmd.Wait(); err != nil || !strings.Contains(tree.String(), tc.want) {
			t.Errorf("%s: %v; QEMU's tree has no %s:\n%s", tc.channel, err, tc.want, tree.String())
		}
	}
}
