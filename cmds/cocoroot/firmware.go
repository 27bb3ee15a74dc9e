package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/files"
	"cocoroot/initramfs/measure/ovmf"
)

// ownFirmware is what ovmf.ParseOwn takes. The linker sets it, in a build that
// made the firmware too.
var ownFirmware string

// foreign says what firmware that is not ours may let the host do.
func foreign(err error) string {
	return fmt.Sprintf("%v, and may let the host in before the measured kernel runs:\n  - %s", err, strings.Join(ovmf.Holes(), "\n  - "))
}

// warnForeign warns of firmware that is not ours.
func (a *app) warnForeign(sum [sha256.Size]byte) {
	if err := a.own.Check(sum); err != nil {
		a.warn("%s", foreign(err))
	}
}

// wantOwn refuses firmware that is not ours, or that is not here to be looked
// at, unless it is to be taken unchecked.
func (a *app) wantOwn(path string, unchecked bool) error {
	const hint = "./build.sh firmware builds cocoroot's own; --firmware-unchecked accepts this one anyway"
	image, err := files.Read(path, files.MaxImage)
	switch {
	case unchecked && errors.Is(err, fs.ErrNotExist):
		return nil // it is the host's to have
	case err != nil:
		return fault.Hintf(err, hint)
	case unchecked:
		a.warnForeign(sha256.Sum256(image))
		return nil
	}
	if err := a.own.Check(sha256.Sum256(image)); err != nil {
		return fault.Hintf(fmt.Errorf("cannot use %s: %s", path, foreign(err)), hint)
	}
	return nil
}
