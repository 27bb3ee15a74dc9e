package format

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"io"
	"testing"

	"github.com/google/uuid"

	"cocoroot/unlock/luks2"
	"cocoroot/unlock/luks2/internal/layout"
)

func TestFormatIsReproducible(t *testing.T) {
	// The digest was taken from a region that cryptsetup 2.6.1 opened
	// (TestCryptsetupOpensFormat). A change of it changes the images that
	// people get from the same inputs.
	const want = "d231c0958e343632061cf754c96002891b29aed4af4cdece71131d0ac1728bdf"
	sum := sha256.Sum256(region(t, options()))
	if got := hex.EncodeToString(sum[:]); got != want {
		t.Errorf("SHA-256 of the region = %s; want %s", got, want)
	}
	o := options()
	o.Random = random(2)
	if other := sha256.Sum256(region(t, o)); other == sum {
		t.Error("other random bytes made the same region")
	}
}

func TestFormatLayout(t *testing.T) {
	o := options()
	o.UUID = uuid.UUID{0x11, 0x22, 15: 0xee}
	r := region(t, o)
	first, second := r[:16384], r[16384:32768]
	if string(second[:6]) != layout.SecondaryMagic || second[layout.OffOffset+6] != 0x40 {
		t.Errorf("second header begins with %q and says it stands at %x", second[:6], second[layout.OffOffset:layout.OffOffset+8])
	}
	if bytes.Equal(first[layout.OffSalt:layout.OffUUID], second[layout.OffSalt:layout.OffUUID]) {
		t.Error("both headers have the same salt")
	}
	if jsonText(first) != jsonText(second) {
		t.Error("the headers differ in their JSON")
	}
	sum := layout.Checksum(second)
	if !bytes.Equal(sum[:], second[layout.OffChecksum:layout.OffChecksum+32]) {
		t.Error("the second header does not match its checksum")
	}
	if end := keyslotOffset + layout.Stripes*luks2.KeySize; !zero(r[end:]) {
		t.Errorf("bytes after the keyslot, from %d on, are not zero", end)
	}
	info, err := luks2.Check(first, deviceSize, luks2.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	want := luks2.Info{
		UUID: "11220000-0000-0000-0000-0000000000ee", HeaderSize: 16384, KDF: PBKDF2(1000),
		Offset: 1 << 20, Size: deviceSize - 1<<20, SectorSize: 4096, Encryption: "aes-xts-plain64",
	}
	if info != want {
		t.Errorf("Check = %+v\nwant    %+v", info, want)
	}
}

func TestFormatHasNoSecretInTheClear(t *testing.T) {
	o := options()
	r := region(t, o)
	for name, secret := range map[string][]byte{"passphrase": o.Passphrase, "volume key": o.VolumeKey, "half of the volume key": o.VolumeKey[:32]} {
		if bytes.Contains(r, secret) {
			t.Errorf("the region holds the %s", name)
		}
	}
	if o.VolumeKey[1] != 7 || !bytes.Equal(o.Passphrase, passphrase) {
		t.Error("New changed the caller's keys")
	}
}

func TestFormatRefuses(t *testing.T) {
	tests := map[string]struct {
		change func(*Options)
		want   error
	}{
		"no passphrase":       {func(o *Options) { o.Passphrase = nil }, errKey},
		"short volume key":    {func(o *Options) { o.VolumeKey = o.VolumeKey[:32] }, errKey},
		"equal halves":        {func(o *Options) { o.VolumeKey = make([]byte, luks2.KeySize) }, errKey},
		"no KDF":              {func(o *Options) { o.KDF = luks2.KDF{} }, ErrKDF},
		"too few iterations":  {func(o *Options) { o.KDF = PBKDF2(999) }, ErrKDF},
		"too many iterations": {func(o *Options) { o.KDF = PBKDF2(luks2.MaxIterations + 1) }, ErrKDF},
		"no passes":           {func(o *Options) { o.KDF = Argon2id(0, 64, 1) }, ErrKDF},
		"no lanes":            {func(o *Options) { o.KDF = Argon2id(4, 64, 0) }, ErrKDF},
		"memory for no lane":  {func(o *Options) { o.KDF = Argon2id(4, 15, 2) }, ErrKDF},
		"too much memory":     {func(o *Options) { o.KDF = Argon2id(4, luks2.MaxMemoryKiB+1, 1) }, ErrKDF},
		"no random salts":     {func(o *Options) { o.Random = io.LimitReader(o.Random, 0) }, io.EOF},
		"no random stripes":   {func(o *Options) { o.Random = io.LimitReader(o.Random, 192+3999*64-1) }, io.ErrUnexpectedEOF},
	}
	for name, test := range tests {
		o := options()
		test.change(&o)
		if r, err := New(o); !errors.Is(err, test.want) || r != nil {
			t.Errorf("%s: New = %d bytes, %v; want %v", name, len(r), err, test.want)
		}
	}
	o := options() // exactly as many random bytes as documented are enough
	o.Random = io.LimitReader(o.Random, 64+64+32+32+3999*64)
	if _, err := New(o); err != nil {
		t.Error(err)
	}
}

func TestNewVolumeKey(t *testing.T) {
	key := make([]byte, luks2.KeySize)
	if err := NewVolumeKey(key, random(3)); err != nil || zero(key) {
		t.Errorf("NewVolumeKey = %v, key zero: %v", err, zero(key))
	}
	if err := NewVolumeKey(key, bytes.NewReader(bytes.Repeat([]byte{1}, luks2.KeySize))); !errors.Is(err, errKey) || !zero(key) {
		t.Errorf("NewVolumeKey(equal halves) = %v, key %x; want errKey and zeros", err, key)
	}
	if err := NewVolumeKey(key, bytes.NewReader(bytes.Repeat([]byte{1}, luks2.KeySize-1))); !errors.Is(err, io.ErrUnexpectedEOF) || !zero(key) {
		t.Errorf("NewVolumeKey(short source) = %v, key %x; want an error and zeros", err, key)
	}
	if err := NewVolumeKey(key[:32], random(3)); !errors.Is(err, errKey) {
		t.Errorf("NewVolumeKey(32 bytes) = %v; want errKey", err)
	}
}

func TestSplitMerges(t *testing.T) {
	key := options().VolumeKey
	area := make([]byte, layout.Stripes*luks2.KeySize)
	if err := split(area, key, random(4)); err != nil {
		t.Fatal(err)
	}
	merge := func() []byte {
		state := make([]byte, luks2.KeySize)
		for i := 0; i < len(area)-luks2.KeySize; i += luks2.KeySize {
			subtle.XORBytes(state, state, area[i:i+luks2.KeySize])
			diffuse(state)
		}
		subtle.XORBytes(state, state, area[len(area)-luks2.KeySize:])
		return state
	}
	if got := merge(); !bytes.Equal(got, key) {
		t.Errorf("merged key = %x; want %x", got, key)
	}
	area[12345] ^= 1
	if bytes.Equal(merge(), key) {
		t.Error("the key survives the loss of a bit")
	}
}
