package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"cocoroot/unlock/efi"
	"cocoroot/unlock/program"
	"cocoroot/unlock/secmem"
	"cocoroot/unlock/secret"
)

// secrets gives the program the entries that the owner has named. They move to a
// file system of memory that is the user's, which wipes a file that is removed; so
// do the others, under their GUIDs. With no names, all stay as init left them.
func secrets(spec *program.Spec) error {
	if len(spec.Secrets) == 0 {
		return nil
	}
	names := map[efi.GUID]program.Secret{}
	for _, s := range spec.Secrets {
		names[s.GUID] = s
	}
	store, err := secret.OpenStore([]string{secret.Dir})
	if err != nil {
		return err
	}
	defer store.Close()
	guids, err := store.GUIDs()
	if err != nil {
		return err
	}
	entries := map[efi.GUID]*secmem.Buffer{}
	for _, g := range guids {
		if entries[g], err = store.Read(g); err != nil {
			return err
		}
		defer entries[g].Close()
	}
	if err := store.RemoveAll(nil); err != nil {
		return err
	}
	if err = unix.Unmount(secret.Dir, unix.MNT_DETACH); err == nil {
		err = unix.Mount("cocoroot", secret.Dir, "ramfs", noExec, "mode=0700")
	}
	if err == nil {
		err = os.Chown(secret.Dir, int(spec.UID), int(spec.GID))
	}
	if err != nil {
		return fmt.Errorf("cannot keep the secrets: %w", err)
	}
	for g, entry := range entries {
		if err := give(spec, names[g], g, entry.Bytes()); err != nil {
			return fmt.Errorf("cannot give the program the secret %s: %w", g, err)
		}
		delete(names, g)
	}
	for g, s := range names {
		return fmt.Errorf("the secret %s for %s was not released to this guest", g, s.File+s.Env)
	}
	return nil
}

// give writes one secret, or puts it into the environment.
func give(spec *program.Spec, s program.Secret, g efi.GUID, data []byte) error {
	if s.Env != "" {
		if bytes.IndexByte(data, 0) >= 0 {
			return errors.New("it has a NUL in it, and a variable cannot")
		}
		// A program takes the first of two of one name: the image's own goes.
		spec.Env = slices.DeleteFunc(spec.Env, func(v string) bool { return strings.HasPrefix(v, s.Env+"=") })
		spec.Env = append(spec.Env, s.Env+"="+string(data))
		return nil
	}
	name, uid, gid := s.File, int(spec.UID), int(spec.GID)
	if name == "" {
		name, uid, gid = g.String(), 0, 0
	}
	path := filepath.Join(secret.Dir, name)
	if err := os.WriteFile(path, data, 0o400); err != nil {
		return err
	}
	return os.Chown(path, uid, gid)
}
