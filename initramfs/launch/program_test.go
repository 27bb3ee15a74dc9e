package launch

import (
	"io"
	"net"
	"reflect"
	"strings"
	"testing"

	"cocoroot/initramfs/image/manifest"
)

// The first line with an exit code counts; whatever else the guest says is dropped.
func TestAttend(t *testing.T) {
	for _, tc := range []struct {
		said string
		want int // -1: none
	}{
		{"cocoroot: exit 0\n", 0},
		{"cocoroot: exit 255\r\n", 255},
		{"x\ncocoroot: exit 7\ncocoroot: exit 8\n", 7},
		{strings.Repeat("x", 1000) + "\ncocoroot: exit 7\n", 7},
		{"", -1},
		{"cocoroot: exit 7", -1},
		{"cocoroot: exit 256\n", -1},
		{"cocoroot: exit -1\n", -1},
		{"cocoroot: exit \n", -1},
		{"cocoroot: exit 7 \x1b[m\n", -1},
		{"cocoroot: exit 0000000000007\n", -1},
		{"a cocoroot: exit 7\n", -1},
	} {
		ours, theirs := net.Pipe()
		go func() {
			io.WriteString(theirs, tc.said)
			theirs.Close()
		}()
		got := -1
		if code := attend(ours, nil); code != nil {
			got = *code
		}
		if ours.Close(); got != tc.want {
			t.Errorf("%.40q: exit code %d; want %d", tc.said, got, tc.want)
		}
	}
}

// The guest is asked again for as long as it may not have listened.
func TestAttendStops(t *testing.T) {
	ours, theirs := net.Pipe()
	stop := make(chan struct{})
	close(stop)
	go func() {
		text := make([]byte, 10)
		if _, err := io.ReadFull(theirs, text); err != nil || string(text) != "stop\nstop\n" {
			t.Errorf("the guest was told %q, %v", text, err)
		}
		io.WriteString(theirs, "cocoroot: exit 1\n")
		theirs.Close()
	}()
	if code := attend(ours, stop); code == nil || *code != 1 {
		t.Errorf("exit code %v; want 1", code)
	}
}

func TestPublished(t *testing.T) {
	got := Published([]manifest.Port{{Number: 80}, {Number: 1023}, {Number: 1024}, {Number: 53, UDP: true}})
	want := []Forward{{Host: 8080, Guest: 80}, {Host: 9023, Guest: 1023}, {Host: 1024, Guest: 1024}, {Host: 8053, Guest: 53, UDP: true}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("Published = %v; want %v", got, want)
	}
}
