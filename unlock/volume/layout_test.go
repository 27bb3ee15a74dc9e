package volume

import (
	"encoding/hex"
	"errors"
	"math/bits"
	"strings"
	"testing"
)

// provided is what the kernel finds by halving: the most sectors of data whose
// last one still lies on the device (get_provided_data_sectors and
// calculate_device_limits in drivers/md/dm-integrity.c).
func provided(device, initial, run uint64) uint64 {
	fits := func(data uint64) bool {
		area, offset := (data-1)>>15, (data-1)&(1<<15-1)
		return area<<15+(area+1)*run+initial+offset < device
	}
	var data uint64
	for bit := bits.Len64(device) - 1; bit >= 3; bit-- {
		if try := data | 1<<bit; fits(try) {
			data = try
		}
	}
	return data
}

func TestArea(t *testing.T) {
	const turn = (272 + 16*(256+32768)) * 512
	for _, size := range []uint64{
		2 << 20, 64 << 20, 259 << 20, 300<<20 + 511, 300<<20 + 4096, 1 << 30, 5<<30 + 12288, 100 << 30, 1 << 50,
		// Around the end of a run of data and one of tags.
		turn, turn + 4096, turn + 256*512, turn + 264*512, turn + (256+32768)*512,
	} {
		for _, l := range []Layout{{Sections: 1}, {Sections: 31}, {Sections: 500}, {Sections: 1, Journal: true}, {Sections: 230, Journal: true}} {
			l.Start = 1 << 20
			section, run := uint64(8+32*8), uint64(256)
			if l.Journal {
				section, run = 8+8*8, 1472
			}
			a, err := l.area(size + l.Start)
			initial := 8 + section*uint64(l.Sections)
			want := uint64(0)
			if size/4096*8 > initial {
				want = provided(size/4096*8, initial, run)
			}
			if want < 256<<20/512 {
				if !errors.Is(err, ErrSmall) {
					t.Errorf("area(%d) of %+v = %+v, %v; want ErrSmall", size, l, a, err)
				}
				continue
			}
			if err != nil || a.data != want || a.initial != initial || a.size != size/4096*8 {
				t.Errorf("area(%d) of %+v = %+v, %v; want %d of data after %d", size, l, a, err, want, initial)
			}
		}
	}
}

func TestAreaRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		l     Layout
		size  uint64
		small bool
	}{
		"no journal":        {l: Layout{}, size: 1 << 30},
		"starts aside":      {l: Layout{Start: 512, Sections: 1}, size: 1 << 30},
		"larger than disks": {l: Layout{Sections: 1}, size: 1<<60 + 1},
		"before its start":  {Layout{Start: 1 << 20, Sections: 1}, 1<<20 - 1, true},
		"an empty disk":     {Layout{Sections: 1}, 0, true},
		"no room to grow":   {Layout{Sections: 1}, 256 << 20, true},
		"a longer journal":  {Layout{Sections: 1<<32 - 1}, 1 << 59, true},
	} {
		if a, err := tc.l.area(tc.size); err == nil || errors.Is(err, ErrSmall) != tc.small {
			t.Errorf("%s: area = %+v, %v; want an error, ErrSmall: %v", name, a, err, tc.small)
		}
	}
}

// The kernel's own superblock is compared with ours at every creation, in the
// boots; this is one of them.
func TestSuperblock(t *testing.T) {
	l := Layout{Sections: 31}
	a, err := l.area(1 << 30)
	if err != nil {
		t.Fatal(err)
	}
	got := l.superblock(a)
	want := "696e746567727400" + "04" + "0f" + "2000" + "1f000000" + "00a01f0000000000" + "08000000" + "03" + "0c"
	if hex.EncodeToString(got[:30]) != want || strings.Trim(string(got[30:]), "\x00") != "" || len(got) != 4096 {
		t.Errorf("superblock = %x; want %s and zeros", got, want)
	}
}
