// Package vm is a guest as a folder, which cocoroot create makes:
//
//	host/   what the host gets, nothing of it secret
//	owner/  mode 0700: keys, and what the owner expects of the guest
//
// and its settings, from which it is made. The names here are the layout; what is in
// the files, other packages know.
//
// The owner believes nothing of what is in host/, which may come back from a host:
// Open reads the owner's record where there is one. The host's record is there for
// convenience, and whoever changes it changes a launch that does not measure the
// same.
package vm

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"cocoroot/initramfs/files"
	"cocoroot/initramfs/image/manifest"
	"cocoroot/initramfs/launch"
	"cocoroot/initramfs/strictjson"
	"cocoroot/unlock/policy"
)

// The names of the files in host/.
const (
	Image    = "image"
	Initrd   = "initrd"
	Kernel   = "kernel"
	Firmware = "firmware"
	Cmdline  = "cmdline"
	Manifest = Image + ".manifest.json" // of both halves
	Disks    = "disks"                  // folder for what the guest writes to
	Run      = "run"                    // folder of QEMU's sockets, mode 0700
)

// The names of the files in owner/, beside the manifest that is believed.
const (
	DiskKey   = "disk.key"
	StateKey  = "state.key"
	Owner     = "owner" // .key and .pub, for SEV-SNP
	Session   = "session"
	Challenge = "challenge"
	Certs     = "certs"
	Socket    = "socket"  // where ssh leads to the host's, for release run
	Secrets   = "secrets" // folder of more of them, each by its GUID
)

// record is the name of a Record, in both halves.
const record = "vm.json"

// maxRecord bounds a record, in bytes.
const maxRecord = 16 << 10

// Disk is what the guest writes to.
type Disk struct {
	Name    string `json:"name"`
	Size    int64  `json:"size"` // bytes; the file grows as it is written to
	Scratch bool   `json:"scratch,omitempty"`
}

// Record is what the launch of a guest takes beside its files.
type Record struct {
	Version  int           `json:"version"`
	Modes    []launch.Mode `json:"modes,omitempty"` // none: simulated launches only
	VCPUs    []int         `json:"vcpus"`           // numbers that were measured; the first is the usual one
	VCPUType string        `json:"vcpu_type,omitempty"`
	Memory   int           `json:"memory_mib"`
	Disks    []Disk        `json:"disks,omitempty"`
	// Files are the SHA-256, in hex, of what is measured beside the image, by name.
	Files map[string]string `json:"files"`
}

// version is the version of the format.
const version = 1

// Folder is the folder of a guest.
type Folder struct {
	Record
	Path        string // as it was given
	host, owner string
	owned       bool // the owner's half is there
}

// ErrNone is returned for what is not a guest's folder.
var ErrNone = errors.New("cocoroot create has made no such folder")

// Open finds the halves of a guest in a folder: both of them, or the host's, which
// it may be itself.
func Open(path string) (Folder, error) {
	f := Folder{Path: path, host: filepath.Join(path, "host"), owner: filepath.Join(path, "owner")}
	from := f.Own(record)
	f.owned = exists(from)
	if !f.owned {
		from = f.At(record)
	}
	if !exists(from) {
		f.host = path
		from = f.At(record)
	}
	if err := isFile(from); err != nil {
		return f, err
	}
	b, err := files.Read(from, maxRecord)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return f, fmt.Errorf("cannot use %s as a guest: %w", path, ErrNone)
	}
	if err != nil {
		return f, err
	}
	if err := strictjson.Decode(b, maxRecord, &f.Record); err != nil {
		return f, fmt.Errorf("cannot use %s: %w", from, err)
	}
	if err := f.check(from); err != nil {
		return f, err
	}
	return f, f.checkLinks()
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// isOf reports whether a path itself, and not what it leads to, is of a type.
func isOf(path string, t fs.FileMode) bool {
	fi, err := os.Lstat(path)
	return err == nil && fi.Mode().Type() == t
}

// isFile refuses what is there and not a file: in a folder that somebody else made, a
// link could lead to any file, and a pipe has no end.
func isFile(path string) error {
	if _, err := os.Lstat(path); err == nil && !isOf(path, 0) {
		return fmt.Errorf("cannot use %s: it is not a file in this folder, but a link or the like", path)
	}
	return nil
}

// checkLinks is isFile for the host's half, but for the sockets in Run, and for what
// goes into the guest of the owner's. Check says of a file that the owner knows that it
// has changed.
func (f Folder) checkLinks() error {
	dirs := []string{f.host, f.At(Disks)}
	if f.owned {
		dirs = append(dirs, f.owner, f.Own(Secrets))
	}
	for _, dir := range dirs {
		all, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot look through a guest's folder: %w", err)
		}
		for _, e := range all {
			_, known := f.Files[e.Name()]
			switch {
			case e.IsDir(), f.owned && known && dir == f.host:
				continue
			case dir == f.owner && !slices.Contains([]string{DiskKey, StateKey, Secrets}, e.Name()):
				continue
			}
			if err := isFile(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f Folder) check(from string) error {
	if f.Version != version {
		return fmt.Errorf("cannot use %s: version %d; this program knows version %d", from, f.Version, version)
	}
	if len(f.VCPUs) == 0 {
		return fmt.Errorf("cannot use %s: it names no number of CPUs", from)
	}
	for _, d := range f.Disks {
		if policy.CheckStateName(d.Name) != nil || d.Size < 1 {
			return fmt.Errorf("cannot use %s: %.80q of %d bytes is not a disk", from, d.Name, d.Size)
		}
	}
	return nil
}

// New makes the empty halves of a guest in a folder.
func New(path string, r Record) (Folder, error) {
	r.Version, r.Files = version, map[string]string{}
	f := Folder{Record: r, Path: path, host: filepath.Join(path, "host"), owner: filepath.Join(path, "owner")}
	return f, errors.Join(os.Chmod(path, 0o755), os.Mkdir(f.host, 0o755), os.Mkdir(f.owner, 0o700))
}

// At returns the path of a file in the host's half.
func (f Folder) At(name ...string) string {
	return filepath.Join(append([]string{f.host}, name...)...)
}

// Own returns the path of a file in the owner's half.
func (f Folder) Own(name ...string) string {
	return filepath.Join(append([]string{f.owner}, name...)...)
}

// On returns the folder as it is where the host's half lies at another path.
func (f Folder) On(host string) Folder {
	f.host = host
	return f
}

// Owned reports whether the owner's half is there.
func (f Folder) Owned() bool { return f.owned }

// Save writes the record into both halves.
func (f Folder) Save() error {
	text, err := json.MarshalIndent(f.Record, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot write the record: %w", err)
	}
	text = append(text, '\n')
	return files.Write(false, files.Public(f.At(record), text), files.Public(f.Own(record), text))
}

// Take puts a file that is measured into the host's half, and notes it.
func (f Folder) Take(name string, b []byte) error {
	f.Files[name] = sum(b)
	return files.Write(false, files.Public(f.At(name), b))
}

// Share notes the command line, which lies in the host's half, and puts a copy of
// the owner's manifest there.
func (f Folder) Share() error {
	line, err := files.Read(f.At(Cmdline), manifest.MaxSize)
	if err != nil {
		return err
	}
	f.Files[Cmdline] = sum(line)
	text, err := files.Read(f.Own(Manifest), manifest.MaxSize)
	if err != nil {
		return err
	}
	return files.Write(false, files.Public(f.At(Manifest), text))
}

// Inherit takes over what the owner has for the guest that this one is to replace,
// which keeps it: the key that its answers are signed with, that of its states, its
// other secrets, and the chips' certificates. It takes none from a folder that
// another user could have made.
func (f Folder) Inherit(old Folder) error {
	info, err := os.Lstat(old.owner)
	if err != nil {
		return err
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; !info.IsDir() || info.Mode().Perm() != 0o700 || int(owner) != os.Geteuid() {
		return fmt.Errorf("cannot keep the keys in %s: it is not a folder that only this user can read and write (mode 0700)", old.owner)
	}
	names := []string{Owner + ".key", Owner + ".pub", StateKey}
	for _, dir := range []string{Certs, Secrets} {
		all, err := os.ReadDir(old.Own(dir))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err = errors.Join(err, os.Mkdir(f.Own(dir), 0o700)); err != nil {
			return err
		}
		for _, e := range all {
			names = append(names, filepath.Join(dir, e.Name()))
		}
	}
	for _, name := range names {
		if err := os.Link(old.Own(name), f.Own(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot keep the key: %w", err)
		}
	}
	return nil
}

// Replace puts the guest in place of another one, which is kept under a new
// name, but for its states.
func (f Folder) Replace(old Folder, kept string) error {
	if err := rename(old.Path, kept); err != nil {
		return err
	}
	disks := filepath.Join(kept, filepath.Base(old.host), Disks)
	if err := rename(disks, f.At(Disks)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return rename(f.Path, old.Path)
}

// Place gives the folder its name, which nothing else may have.
func (f Folder) Place(path string) error { return rename(f.Path, path) }

func rename(from, to string) error {
	if err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE); err != nil {
		return fmt.Errorf("cannot make %s: %w", to, err)
	}
	return nil
}

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// ErrChanged is returned for a file of the host's half that is not the one that was
// put there.
var ErrChanged = errors.New("it is not the file that was measured")

// Check compares the files of the host's half that are measured, beside the image,
// with the record. It is about this moment: whoever can write to them can change them
// afterwards.
func (f Folder) Check(limit int64) error {
	for name, want := range f.Files {
		path := f.At(filepath.Base(name))
		if isFile(path) != nil {
			return fmt.Errorf("%s: %w", path, ErrChanged)
		}
		b, err := files.Read(path, limit)
		if err != nil {
			return err
		}
		if sum(b) != want {
			return fmt.Errorf("%s: %w", path, ErrChanged)
		}
	}
	return nil
}

// MakeDisks makes the files of disks that are not there yet, and returns the names
// of the states among them to which nothing was ever written.
func (f Folder) MakeDisks() (states []string, err error) {
	for _, d := range f.Disks {
		path := f.At(Disks, d.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return states, fmt.Errorf("cannot make a folder for disks: %w", err)
		}
		blank, err := makeDisk(path, d.Size)
		if err != nil {
			return states, fmt.Errorf("cannot make the disk %s: %w", d.Name, err)
		}
		if blank && !d.Scratch {
			states = append(states, d.Name)
		}
	}
	return states, nil
}

// makeDisk makes a file that is all one hole, or reports whether what is there is.
func makeDisk(path string, size int64) (blank bool, err error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		if err = errors.Join(file.Truncate(size), file.Close()); err != nil {
			os.Remove(path)
		}
		return true, err
	}
	if !errors.Is(err, fs.ErrExist) {
		return false, err
	}
	if file, err = os.Open(path); err != nil {
		return false, err
	}
	defer file.Close()
	_, err = file.Seek(0, unix.SEEK_DATA)
	return errors.Is(err, unix.ENXIO), nil
}

// leastDisk is the size in bytes of the smallest disk that a guest can use.
const leastDisk = 300 << 20

// ParseSize reads the size of a disk in bytes: a number with M, G or T.
func ParseSize(s string) (int64, error) {
	units := map[string]uint{"M": 20, "G": 30, "T": 40}
	if s != "" {
		n, err := strconv.ParseInt(s[:len(s)-1], 10, 16)
		if shift, ok := units[s[len(s)-1:]]; ok && err == nil && n<<shift >= leastDisk {
			return n << shift, nil
		}
	}
	return 0, fmt.Errorf("%.32q is not the size of a disk, such as 10G or 2T; 300M is the least", s)
}
