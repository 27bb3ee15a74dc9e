package state

import (
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"

	"golang.org/x/sys/unix"

	"cocoroot/unlock/policy"
	"cocoroot/unlock/volume"
)

// MinSecret is the shortest entry in bytes from which keys are derived. The HMAC of
// the header lets anyone who has the disk try guesses, so what a person has chosen
// is never enough.
const MinSecret = 32

// What the keys are for. The name of the state follows, after a NUL.
const (
	headerLabel = "cocoroot/state/v1/header"
	xtsLabel    = "cocoroot/state/v1/aes-xts"
	hmacLabel   = "cocoroot/state/v1/hmac-sha256"
)

// derive returns n bytes of HKDF-SHA-256 (RFC 5869).
func derive(secret, salt []byte, label, name string, n int) []byte {
	key, err := hkdf.Key(sha256.New, secret, salt, label+"\x00"+name, n)
	if err != nil {
		panic(err) // n is a constant, far below the limit
	}
	return key
}

// headerKey returns the key of the header's HMAC.
func headerKey(secret []byte, name string) []byte {
	return derive(secret, nil, headerLabel, name, sha256.Size)
}

// volumeKey returns the key of the blocks: two AES keys for XTS, then the HMAC's.
func (h Header) volumeKey(secret []byte) []byte {
	key := make([]byte, 0, volume.KeySize)
	key = append(key, derive(secret, h.Salt[:], xtsLabel, h.Name, volume.KeySize-sha256.Size)...)
	return append(key, derive(secret, h.Salt[:], hmacLabel, h.Name, sha256.Size)...)
}

// keyType is a type of keys that never leave the kernel
// (Documentation/security/keys/core.rst).
const keyType = "logon"

// description names the key of a state in the keyring.
func description(name string) string { return "cocoroot:" + name }

// The keyring is that of the user: the child that unseals adds keys, and
// device-mapper looks there when the first process asks it to map a disk.
const keyring = unix.KEY_SPEC_USER_KEYRING

// forget takes the keys of states out of the kernel's memory. A mapping keeps its own.
func forget(states []policy.State) error {
	for _, s := range states {
		id, err := unix.KeyctlSearch(keyring, keyType, description(s.Name), 0)
		if err == unix.ENOKEY {
			continue
		}
		if err == nil {
			_, err = unix.KeyctlInt(unix.KEYCTL_REVOKE, id, 0, 0, 0)
		}
		if err != nil {
			return fmt.Errorf("cannot remove the key of the state %s: %w", s.Name, err)
		}
	}
	if _, err := unix.KeyctlInt(unix.KEYCTL_CLEAR, keyring, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot remove the keys of the states: %w", err)
	}
	// What was revoked is zeroed when no CPU can be reading it any more
	// (security/keys/user_defined.c: call_rcu). One such time passes in each of
	// these calls (kernel/sched/membarrier.c), and the zeroing may come late in the
	// second.
	for range 3 {
		_, _, _ = unix.Syscall(unix.SYS_MEMBARRIER, membarrierGlobal, 0, 0)
	}
	return nil
}

// membarrierGlobal is MEMBARRIER_CMD_GLOBAL (include/uapi/linux/membarrier.h).
const membarrierGlobal = 1
