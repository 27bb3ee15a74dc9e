package volume

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// WithRandomKey runs do with a key that the kernel has made up and gives to
// nobody: it is named by "encrypted:DESCRIPTION", for Volume.Key. When do
// returns, the key has left the keyrings; dm-crypt keeps what it has read.
//
// A key of the type "encrypted" leaves the kernel only under a master key
// (security/keys/encrypted-keys/encrypted.c), and the one named here does not
// exist.
func WithRandomKey(description string, do func(key string) error) error {
	// The keyring is the thread's, and dm-crypt looks into that of its caller.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	order := fmt.Sprintf("new default user:cocoroot-no-master %d", KeySize)
	id, err := unix.AddKey("encrypted", description, []byte(order), unix.KEY_SPEC_THREAD_KEYRING)
	if err != nil {
		return fmt.Errorf("cannot have the kernel make a key: %w", err)
	}
	err = do("encrypted:" + description)
	if _, forget := unix.KeyctlInt(unix.KEYCTL_INVALIDATE, id, 0, 0, 0); err == nil && forget != nil {
		err = fmt.Errorf("cannot remove the key from the keyring: %w", forget)
	}
	return err
}
