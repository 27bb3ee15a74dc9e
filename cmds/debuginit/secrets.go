package main

import (
	"errors"

	"cocoroot/unlock/fatal"
	"cocoroot/unlock/secmem"
	"cocoroot/unlock/secret"
)

// takeSecrets shows the GUID and the length of every entry, never a value, and
// removes all of them. It returns nil only after checking that none is left:
// what cannot be reached from here could be reached from a shell later.
func takeSecrets(dirs []string) error {
	store, err := secret.OpenStore(dirs)
	if errors.Is(err, secret.ErrNoStore) {
		return absent(secret.WhyNoStore())
	}
	if err != nil {
		return &fatal.Error{Code: fatal.Wipe, Err: err}
	}
	defer store.Close()
	show(store)
	if err := store.RemoveAll(nil); err != nil {
		return &fatal.Error{Code: fatal.Wipe, Err: err}
	}
	say("secrets: every entry was removed, and none is left")
	return nil
}

// absent judges why there is no folder of entries.
func absent(why error) error {
	code := fatal.CodeOf(why, fatal.Wipe)
	if code != fatal.SecretNone {
		return fatal.Errorf(code, "secrets could not be removed: %w", why)
	}
	say("secrets: none was injected")
	return nil
}

func show(store *secret.Store) {
	guids, err := store.GUIDs()
	if err != nil {
		say("secrets: %v", err)
		return
	}
	say("secrets: %d entries", len(guids))
	for _, g := range guids {
		// The kernel tells no size otherwise. The buffer is locked, and wiped at once.
		b, err := store.Read(g)
		switch {
		case errors.Is(err, secmem.ErrEmpty):
			say("secrets: %s: 0 bytes", g)
		case err != nil:
			say("secrets: %s: %v", g, err)
		default:
			say("secrets: %s: %d bytes", g, len(b.Bytes()))
			b.Close()
		}
	}
}
