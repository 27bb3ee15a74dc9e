package inspect

import (
	"testing"
)

func TestDataBlocksOf(t *testing.T) {
	for _, n := range []uint64{1, 2, 127, 128, 129, 16384, 16385, 1 << 28} {
		size := (imageBlocks(n)) * 4096
		if got := dataBlocksOf(size); got != n {
			t.Errorf("dataBlocksOf(%d) = %d; want %d", size, got, n)
		}
		if got := dataBlocksOf(size + 512); got != 0 {
			t.Errorf("dataBlocksOf(%d) = %d; want 0", size+512, got)
		}
	}
	if got := dataBlocksOf(0); got != 0 {
		t.Errorf("dataBlocksOf(0) = %d", got)
	}
}

// imageBlocks counts the blocks of data, superblock and tree.
func imageBlocks(n uint64) uint64 {
	total := n + 1
	for n > 1 {
		n = (n + 127) / 128
		total += n
	}
	return total
}
