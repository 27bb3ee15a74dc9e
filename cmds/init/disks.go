package main

import (
	"context"
	"errors"
	"time"

	"cocoroot/unlock/disk"
	"cocoroot/unlock/fatal"
	"cocoroot/unlock/policy"
)

// findDisks waits for every disk that the policy names: the image's, then those
// that are written.
func (b *boot) findDisks() error {
	ctx, cancel := context.WithTimeout(b.deadline, b.policy.Timeout)
	defer cancel()
	err := b.findImage(ctx)
	if err != nil {
		return err
	}
	if b.hasScratch() {
		if b.scratch, err = b.findWritten(ctx, b.policy.Overlay.Scratch, fatal.Scratch); err != nil {
			return err
		}
	}
	for _, s := range b.policy.States {
		d, err := b.findWritten(ctx, s.Disk, fatal.StateDisk)
		if err != nil {
			return err
		}
		b.stateDisks = append(b.stateDisks, d)
	}
	return nil
}

// findImage waits for the image's disk.
func (b *boot) findImage(ctx context.Context) error {
	d, err := b.waitFor(ctx, b.policy.Disk, b.policy.Image.DeviceSize())
	switch {
	case errors.Is(err, disk.ErrAbsent):
		return fatal.Errorf(fatal.DiskAbsent, "%w within %s; attach the sealed image, or name it with cocoroot.disk=", err, b.policy.Timeout)
	case errors.Is(err, disk.ErrAmbiguous):
		return fatal.Errorf(fatal.DiskAmbiguous, "%w; take the other away, or name it in another way with cocoroot.disk=", err)
	case errors.Is(err, disk.ErrSmall):
		return fatal.Errorf(fatal.DiskSize, "%w; was the image cut short when it was copied?", err)
	}
	b.disk = d
	return err
}

// findWritten waits for a disk that is written. Two names of the command line may
// turn out to be one disk.
func (b *boot) findWritten(ctx context.Context, want policy.Disk, code fatal.Code) (disk.Disk, error) {
	d, err := b.waitFor(ctx, want, 0)
	if err != nil {
		return d, fatal.Errorf(code, "%w within %s; attach one disk of this name", err, b.policy.Timeout)
	}
	for _, other := range append([]disk.Disk{b.disk, b.scratch}, b.stateDisks...) {
		if other.Path == d.Path {
			return d, fatal.Errorf(code, "%s is %s, which has another use; it needs a disk of its own", want, d.Path)
		}
	}
	return d, nil
}

// waitFor waits for one disk, whose name, size and content are the host's choice.
func (b *boot) waitFor(ctx context.Context, want policy.Disk, need uint64) (disk.Disk, error) {
	notice := time.AfterFunc(noticeAfter, func() {
		say("waiting for the disk %s, %s at most", want, b.policy.Timeout)
	})
	defer notice.Stop()
	return disk.Wait(ctx, want, need)
}
