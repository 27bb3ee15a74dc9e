package snp

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/files"
	"cocoroot/initramfs/strictjson"
	"cocoroot/unlock/release"
)

// kindChallenge is the kind of a challenge's file.
const kindChallenge = "challenge"

// maxChallenge bounds a challenge's file in bytes.
const maxChallenge = 4 << 10

// Challenge makes a guest's report fresh. It is not secret, and the host gets a
// copy of its file; the owner's file is what is used up.
type Challenge struct {
	Version int       `json:"version"`
	Kind    string    `json:"kind"`
	Bytes   []byte    `json:"challenge"` // base64 in JSON
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"` // by the owner's clock
}

// NewChallenge makes one that is good for a while.
func NewChallenge(now time.Time, life time.Duration) Challenge {
	c := Challenge{strictjson.Version, kindChallenge, make([]byte, release.ChallengeSize), now.UTC().Truncate(time.Second), now.Add(life).UTC().Truncate(time.Second)}
	rand.Read(c.Bytes) // never fails
	return c
}

// File returns the challenge's file, which only the owner may change.
func (c Challenge) File(path string) (files.File, error) {
	b, err := strictjson.Encode(c)
	return files.Secret(path, b), err
}

// ReadChallenge reads a challenge's file.
func ReadChallenge(path string) (Challenge, error) {
	var c Challenge
	b, err := files.Read(path, maxChallenge)
	if errors.Is(err, fs.ErrNotExist) {
		if _, gone := os.Lstat(used(path)); gone == nil {
			err = fault.New(fault.Mismatch, refusef("challenge", "it was used, as %s says: each releases once", used(path)), "cocoroot release challenge makes another one, for another report")
		}
	}
	if err == nil {
		err = strictjson.DecodeKind(b, maxChallenge, &c, kindChallenge)
	}
	if err == nil && len(c.Bytes) != release.ChallengeSize {
		err = fmt.Errorf("not a challenge's file: %d bytes", len(c.Bytes))
	}
	if err != nil {
		return Challenge{}, fmt.Errorf("cannot use the challenge %s: %w", path, err)
	}
	return c, nil
}

// fresh checks that the time is one for this challenge.
func (c Challenge) fresh(now time.Time) error {
	if now.After(c.Expires) || now.Before(c.Created) {
		return fmt.Errorf("it was good from %s to %s, and it is %s", c.Created.Format(time.RFC3339), c.Expires.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return nil
}

func used(path string) string { return path + ".used" }

// Use uses the challenge in a file up, for good. Of several that try, one
// succeeds. The file has to hold this challenge still, and not be a link to it: its
// name may have been given to another one meanwhile.
func (c Challenge) Use(path string) error {
	fi, err := os.Lstat(path)
	if err == nil && !fi.Mode().IsRegular() {
		err = errors.New("it is not an ordinary file")
	}
	if err == nil {
		err = os.Rename(path, used(path))
	}
	if err == nil {
		var now Challenge
		if now, err = ReadChallenge(used(path)); err == nil && !bytes.Equal(now.Bytes, c.Bytes) {
			err = errors.New("its file holds another one by now")
		}
	}
	if err == nil {
		var dir *os.File
		if dir, err = os.Open(filepath.Dir(path)); err == nil {
			err = dir.Sync()
			dir.Close()
		}
	}
	if err != nil {
		return fault.New(fault.Mismatch, fmt.Errorf("cannot use up the challenge %s: %w", path, err), "nothing was released")
	}
	return nil
}
