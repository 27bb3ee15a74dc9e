package launch

import (
	"reflect"
	"strings"
	"testing"
)

func TestObserver(t *testing.T) {
	const screen = "\x1b[2J\x1b[001;001H\x1b[=3h\x1b[8;056;240t"
	long := strings.Repeat("x", maxLine)
	for _, tt := range []struct {
		name, text string
		want       Outcome
	}{
		{"nothing", "", Outcome{}},
		{"only the firmware's screen", screen + "\r\n", Outcome{}},
		{"firmware", screen + "BdsDxe: failed to load Boot0002\r\nBdsDxe: No bootable option was found.\r\n", Outcome{Firmware: "BdsDxe: No bootable option was found."}},
		{"firmware, then the kernel", screen + "BdsDxe: loading Boot0001\r\n[    0.0] Linux\r\nBdsDxe: No bootable option\n", Outcome{Firmware: "BdsDxe: loading Boot0001", Spoke: true}},
		{"our firmware", "cocoroot firmware: no memory\r\n", Outcome{Firmware: "cocoroot firmware: no memory"}},
		{"in its words, but later", "EFI stub: hello\ncocoroot firmware: no memory\n", Outcome{Spoke: true}},
		{"in its words, in the middle", "not cocoroot firmware: no memory\n", Outcome{Spoke: true}},
		{"kernel", screen + "EFI stub: hello", Outcome{Spoke: true}},
		{"fatal", "cocoroot: FATAL NO_KEY: inject it\r\n", Outcome{Spoke: true, Fatal: &Fatal{"NO_KEY", "inject it"}}},
		{"fatal without line break", "cocoroot: FATAL a-1: b", Outcome{Spoke: true, Fatal: &Fatal{"a-1", "b"}}},
		{"fatal after the screen's", screen + "cocoroot: FATAL X: y\n", Outcome{Spoke: true, Fatal: &Fatal{"X", "y"}}},
		{"fatal in the middle", "[ 1.0] usb 1-1: newcocoroot: FATAL X: y\n", Outcome{Spoke: true, Fatal: &Fatal{"X", "y"}}},
		{"first of two", "cocoroot: FATAL X: y\ncocoroot: FATAL Z: z\n", Outcome{Spoke: true, Fatal: &Fatal{"X", "y"}}},
		{"control characters", "cocoroot: FATAL X: a\x1b[31mb\x07c\u009bd\xff\n", Outcome{Spoke: true, Fatal: &Fatal{"X", "abcd\uFFFD"}}},
		{"no code", "cocoroot: FATAL : y\ncocoroot: FATAL two words: y\ncocoroot: FATAL " + strings.Repeat("X", 65) + ": y\n", Outcome{Spoke: true}},
		{"not init's", "cocoroot: mounted\nFATAL X: y\n", Outcome{Spoke: true}},
		{"panic", "[ 1.0] Kernel panic - not syncing: VFS\r\n[ 1.0] ---[ end Kernel panic - not syncing: other ]---\n", Outcome{Spoke: true, Panic: "Kernel panic - not syncing: VFS"}},
		{"after a long line", long + "\ncocoroot: FATAL X: y\n", Outcome{Spoke: true, Fatal: &Fatal{"X", "y"}}},
		{"too far in a long line", long + "cocoroot: FATAL X: y\n", Outcome{Spoke: true}},
		{"cut by the long line", "cocoroot: FATAL X: " + long, Outcome{Spoke: true, Fatal: &Fatal{"X", long[:maxLine-19]}}},
	} {
		for _, step := range []int{1, 7, 1 << 20} {
			var out strings.Builder
			var refused error
			o := &observer{out: &out, refused: func(err error) { refused = err }}
			for b := []byte(tt.text); len(b) > 0; b = b[min(step, len(b)):] {
				o.Write(b[:min(step, len(b))])
				if len(o.line) > maxLine {
					t.Fatalf("%s: %d bytes of a line are kept", tt.name, len(o.line))
				}
			}
			got, err := o.outcome()
			want := tt.want
			want.Bytes = int64(len(tt.text))
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%s, %d bytes at a time: %+v, fatal %+v, %v; want %+v", tt.name, step, got, got.Fatal, err, want)
			}
			if out.String() != tt.text {
				t.Errorf("%s: passed on %.200q; want what came in", tt.name, out.String())
			}
			if o.silent() != (tt.text == "") || (refused != nil) != (refusal(want.Firmware) != "") {
				t.Errorf("%s: silent %v, refused: %v", tt.name, o.silent(), refused)
			}
		}
	}
}

var consoleSeeds = []string{
	"\x1b[2JBdsDxe: No bootable option was found.\r\nBdsDxe: No bootable option\n",
	"cocoroot: FATAL NO_KEY: inject it\r\nKernel panic - not syncing: x",
}

func TestFuzzObserverSeeds(t *testing.T) {
	var all Outcome
	for _, s := range consoleSeeds {
		o := &observer{refused: func(error) {}}
		o.Write([]byte(s))
		got, err := o.outcome()
		if err != nil {
			t.Fatal(err)
		}
		all.Firmware += got.Firmware
		all.Panic += got.Panic
		if got.Fatal != nil {
			all.Fatal = got.Fatal
		}
	}
	if all.Firmware == "" || all.Panic == "" || all.Fatal == nil {
		t.Errorf("the seeds reach firmware %q, panic %q, FATAL %v; want all three", all.Firmware, all.Panic, all.Fatal)
	}
}

func FuzzObserver(f *testing.F) {
	for i, s := range consoleSeeds {
		f.Add([]byte(s), 3+2*i)
	}
	f.Fuzz(func(t *testing.T, b []byte, step int) {
		o := &observer{refused: func(error) {}}
		step = 1 + (step&0xffff)%4096
		total := int64(len(b))
		for ; len(b) > 0; b = b[min(step, len(b)):] {
			o.Write(b[:min(step, len(b))])
		}
		got, err := o.outcome()
		if err != nil || got.Bytes != total {
			t.Errorf("%d bytes, %v; want %d", got.Bytes, err, total)
		}
		for _, s := range []string{got.Firmware, got.Panic, text(got.Fatal)} {
			if strings.ContainsAny(s, "\x1b\n\r\x00\u009b") || len(s) > 3*maxLine {
				t.Errorf("outcome has %.200q", s)
			}
		}
	})
}

func text(f *Fatal) string {
	if f == nil {
		return ""
	}
	return string(f.Code) + f.Text
}
