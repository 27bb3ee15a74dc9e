package main_test

import (
	"context"
	"errors"
	"net"
	"testing"

	"cocoroot/initramfs/release/snp"
	"cocoroot/unlock/release"
)

// stranger connects to the guest's channel, waits until the guest speaks, says
// something, and hangs up when the guest has said so many frames more.
func (r *released) stranger(ctx context.Context, t *testing.T, says []byte, frames int) (gone <-chan struct{}) {
	r.connect(ctx, t).Close() // when QEMU is there
	done := make(chan struct{})
	conn, err := net.Dial("unix", r.carrier)
	if err != nil {
		t.Error(err)
		close(done)
		return done
	}
	context.AfterFunc(ctx, func() { conn.Close() })
	go func() {
		defer close(done)
		defer conn.Close()
		var heard release.Frames
		buf := make([]byte, 4096)
		for spoke := false; frames > 0; {
			n, err := conn.Read(buf)
			if err == nil {
				err = heard.Add(buf[:n])
			}
			for _, _, ok := heard.Next(); ok && err == nil; _, _, ok = heard.Next() {
				if spoke {
					frames--
					continue
				}
				spoke = true
				_, err = conn.Write(says)
			}
			if err != nil {
				t.Errorf("the stranger: %v", err)
				return
			}
		}
	}()
	return done
}

// Others use the guest's channel before its owner, and in the middle. QEMU lets them
// in one after the other. The owner is told that the guest was asked anew, and has
// what it takes to ask once more.
func TestCrowdedChannel(t *testing.T) {
	t.Parallel()
	r := newReleased(t)
	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	defer cancel()
	first, second := make(chan error, 1), make(chan error, 1)
	go func() {
		// Half an answer, into which the owner's words would go.
		<-r.stranger(ctx, t, length(release.Append(nil, release.Answer, []byte("half")), release.MaxAnswer), 1)
		first <- r.release(ctx, t, func() error {
			// It is let in when the owner has gone to seal the secrets.
			r.stranger(ctx, t, release.Append(nil, release.Challenge, testChallenge), 2)
			return nil
		})
		second <- r.release(ctx, t, func() error { return nil })
	}()
	r.runs(t)
	if err := <-first; !errors.Is(err, snp.ErrOtherGuest) {
		t.Errorf("the owner's answer to an earlier question: %v; want %v", err, snp.ErrOtherGuest)
	}
	if err := <-second; err != nil {
		t.Errorf("the owner's answer to the last one: %v", err)
	}
}
