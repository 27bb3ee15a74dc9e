// Package unseal turns the measured disk into a decrypted one: dm-verity,
// the key from the injected secret or from the owner, the LUKS2 header, dm-crypt.
//
// All bytes that the host controls are handled here, and the key too, so
// it runs in a process of its own (Child) that the first process supervises
// (Run): what crashes, hangs or eats memory here is a failed boot like any
// other, and the kernel takes back, zeroed, all memory that held the key.
//
// It does not remove the secret: the first process does, whatever happens
// here. The volume key stays in the kernel for as long as the root is used.
package unseal

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/anatol/luks.go"
	"golang.org/x/sys/unix"

	"cocoroot/unlock/disk"
	"cocoroot/unlock/dm"
	"cocoroot/unlock/efi"
	"cocoroot/unlock/fatal"
	"cocoroot/unlock/luks2"
	"cocoroot/unlock/policy"
	"cocoroot/unlock/secmem"
	"cocoroot/unlock/secret"
	"cocoroot/unlock/state"
)

// Names of the two device-mapper devices.
const (
	VerityName = "cocoroot-verity"
	RootName   = "cocoroot-root"
)

// Job is what the child has to do. All of it is measured except the devices.
type Job struct {
	Device string        `json:"device"`
	States []disk.Disk   `json:"states"` // the disks of the policy's states, in their order
	Policy policy.Policy `json:"policy"`
	Wait   time.Duration `json:"wait"` // for the owner's answer, when it is asked
}

// secrets are the entries that are for init, in locked memory.
type secrets struct {
	disk   *secmem.Buffer // the key of the image
	states *secmem.Buffer // the secret of the state disks; nil when the policy has none
	orders *secmem.Buffer // nil when there are none
}

// Close wipes them.
func (s secrets) Close() {
	for _, b := range []*secmem.Buffer{s.disk, s.states, s.orders} {
		b.Close()
	}
}

// unseal does the job; step is called with the name of each step before it.
func unseal(job Job, step func(string)) (plans []state.Plan, err error) {
	step("verity")
	v := dm.Verity{Name: VerityName, Device: job.Device, Params: job.Policy.Image}
	if err := v.Activate(); err != nil {
		return nil, fatal.Errorf(fatal.Disk, "%w; is dm-verity in the kernel?", err)
	}
	path, err := dm.Path(VerityName)
	if err != nil {
		return nil, &fatal.Error{Code: fatal.Disk, Err: err}
	}
	info, err := checkHeader(v, path, job.Policy.Image.DataSize())
	if err != nil {
		return nil, err
	}
	step("key")
	keys, err := job.secrets()
	if err != nil {
		keys.Close() // those that were read before it
		return nil, err
	}
	defer keys.Close()
	step("unlock")
	secmem.WithoutResidue(func() { err = open(path, info, keys.disk) })
	if err != nil {
		return nil, blameVerity(v, err)
	}
	if len(job.Policy.States) == 0 && keys.orders == nil {
		return nil, nil
	}
	step("states")
	secmem.WithoutResidue(func() { plans, err = job.prepareStates(keys) })
	return plans, err
}

// prepareStates checks the headers of the state disks and gives their keys to the
// kernel, as the owner's orders allow.
func (job Job) prepareStates(keys secrets) ([]state.Plan, error) {
	orders := state.Orders{}
	if keys.orders != nil {
		var err error
		if orders, err = state.ParseOrders(keys.orders.Bytes(), job.Policy.States); err != nil {
			return nil, fatal.Errorf(fatal.StateOrders, "%w", err)
		}
	}
	if keys.states == nil {
		return nil, nil
	}
	return state.Prepare(keys.states.Bytes(), job.Policy.States, job.States, orders)
}

// checkHeader reads the LUKS2 header from the verified device and checks it
// against the allow-list.
func checkHeader(v dm.Verity, path string, size uint64) (luks2.Info, error) {
	f, err := os.Open(path)
	if err != nil {
		return luks2.Info{}, &fatal.Error{Code: fatal.Disk, Err: err}
	}
	defer f.Close()
	header, err := readHeader(f)
	if err != nil {
		return luks2.Info{}, blameVerity(v, err)
	}
	ram, err := totalRAM()
	if err != nil {
		return luks2.Info{}, err
	}
	info, err := luks2.Check(header, size, luks2.Limits{RAM: ram})
	if err != nil {
		return luks2.Info{}, &fatal.Error{Code: fatal.LUKSHeader, Err: err}
	}
	return info, nil
}

// readHeader reads the first copy of the header, as long as it says it is.
func readHeader(f io.ReaderAt) ([]byte, error) {
	first := make([]byte, luks2.BinaryHeaderSize)
	if _, err := f.ReadAt(first, 0); err != nil {
		return nil, fatal.Errorf(fatal.Disk, "cannot read the LUKS header: %w", err)
	}
	size, err := luks2.HeaderSize(first)
	if err != nil {
		return nil, &fatal.Error{Code: fatal.LUKSHeader, Err: err}
	}
	header := make([]byte, size)
	if _, err := f.ReadAt(header, 0); err != nil {
		return nil, fatal.Errorf(fatal.Disk, "cannot read the LUKS header: %w", err)
	}
	return header, nil
}

// blameVerity names the hash as the cause of err where the kernel has met a
// block that does not match it, and the disk where a block cannot be read.
func blameVerity(v dm.Verity, err error) error {
	if bad, statusErr := v.Corrupted(); statusErr == nil && bad {
		return fatal.Errorf(fatal.Verity, "the disk does not hold the measured image (%w); boot it with the command line it was sealed with", err)
	}
	if errors.Is(err, unix.EIO) {
		return &fatal.Error{Code: fatal.Disk, Err: err}
	}
	return err
}

// secrets returns the entries that are for init.
func (job Job) secrets() (secrets, error) {
	if job.Policy.Release.Asks() {
		return job.ask()
	}
	store, err := secret.OpenStore(secret.Dirs)
	if errors.Is(err, secret.ErrNoStore) {
		err = secret.WhyNoStore()
		return secrets{}, fatal.Errorf(fatal.CodeOf(err, fatal.SecretNone), "%w", err)
	}
	if err != nil {
		return secrets{}, &fatal.Error{Code: fatal.SecretNone, Err: err}
	}
	defer store.Close()
	return job.collect(store.Read)
}

// collect reads the entries that are for init, which may be there or not.
func (job Job) collect(read func(efi.GUID) (*secmem.Buffer, error)) (s secrets, err error) {
	s.disk, err = read(job.Policy.Key)
	switch {
	case errors.Is(err, secret.ErrAbsent):
		return s, fatal.Errorf(fatal.SecretAbsent, "%w; give the guest the disk key under this GUID, or name another with cocoroot.key=", err)
	case errors.Is(err, secmem.ErrEmpty), errors.Is(err, secmem.ErrTooLong):
		return s, fatal.Errorf(fatal.SecretForm, "%w", err)
	case err != nil:
		return s, fatal.Errorf(fatal.SecretNone, "%w", err)
	}
	if len(job.Policy.States) > 0 {
		if s.states, err = read(job.Policy.StateKey); err != nil {
			return s, fatal.Errorf(fatal.StateSecret, "%w; give the guest the key of its states under this GUID", err)
		}
	}
	if s.orders, err = read(policy.Orders); err != nil && !errors.Is(err, secret.ErrAbsent) {
		return s, fatal.Errorf(fatal.StateOrders, "%w", err)
	}
	return s, job.putCredentials(read)
}

// putCredentials writes the entries that are credentials to where systemd has them.
func (job Job) putCredentials(read func(efi.GUID) (*secmem.Buffer, error)) error {
	if len(job.Policy.Credentials) == 0 {
		return nil
	}
	if err := secret.MountMemory(secret.CredentialsDir); err != nil {
		return fatal.Errorf(fatal.Setup, "%w", err)
	}
	for _, c := range job.Policy.Credentials {
		data, err := read(c.GUID)
		if err != nil {
			return fatal.Errorf(fatal.Credential, "%w; give the guest the credential %s under this GUID", err, c.Name)
		}
		err = os.WriteFile(filepath.Join(secret.CredentialsDir, c.Name), data.Bytes(), 0o400)
		data.Close()
		if err != nil {
			return fatal.Errorf(fatal.Setup, "cannot keep the credential %s: %w", c.Name, err)
		}
	}
	return nil
}

// open tries the key as it is and, since some writers end it with a NUL that
// is not part of it, without one trailing NUL.
func open(path string, info luks2.Info, key *secmem.Buffer) error {
	device, err := luks.Open(path)
	if err != nil {
		return fatal.Errorf(fatal.LUKSHeader, "cannot open the LUKS header: %w", err)
	}
	defer device.Close()
	pass := key.Bytes()
	routines := runtime.NumGoroutine()
	volume, err := device.UnsealVolume(info.Keyslot, pass)
	if n := len(pass) - 1; errors.Is(err, luks.ErrPassphraseDoesNotMatch) && n > 0 && pass[n] == 0 {
		// The first attempt's argon2 memory is still there: twice what the
		// allow-list allows is more than this process may have. Its goroutines
		// hold it until they have ended, a moment after their work.
		for wait := time.Millisecond; runtime.NumGoroutine() > routines && wait < time.Second; wait *= 2 {
			time.Sleep(wait)
		}
		runtime.GC()
		volume, err = device.UnsealVolume(info.Keyslot, pass[:n])
	}
	if errors.Is(err, luks.ErrPassphraseDoesNotMatch) {
		if what := secret.Ending(pass); what != "" {
			return fatal.Errorf(fatal.LUKSKey, "the injected key does not open the image; its entry ends in %s, which counts: inject the key without it (printf, not echo)", what)
		}
		return fatal.Errorf(fatal.LUKSKey, "the injected key does not open the image; inject the key file that was written when it was sealed")
	}
	if err != nil {
		return fatal.Errorf(fatal.LUKSHeader, "cannot unlock the image: %w", err)
	}
	if err := sameVolume(volume, path, info); err != nil {
		return err
	}
	if err := volume.SetupMapper(RootName); err != nil {
		return fatal.Errorf(fatal.LUKSMap, "%w; is dm-crypt with aes-xts in the kernel?", err)
	}
	return nil
}

// sameVolume checks that the library read from the header what the allow-list
// accepted, before any of it reaches a device-mapper table.
func sameVolume(v *luks.Volume, path string, info luks2.Info) error {
	same := v.BackingDevice == path && len(v.Flags) == 0 && v.UUID == info.UUID && v.LuksType == "LUKS2" &&
		v.StorageEncryption == info.Encryption && v.StorageIvTweak == 0 && v.StorageSectorSize == info.SectorSize &&
		v.StorageOffset == info.Offset && v.StorageSize == info.Size
	if !same {
		return fatal.Errorf(fatal.LUKSHeader, "cannot use the image: the LUKS library read its header in another way than the allow-list")
	}
	return nil
}
