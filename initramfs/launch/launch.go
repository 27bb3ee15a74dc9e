// Package launch boots a sealed image under QEMU: on SEV hardware, or under
// plain QEMU as a rehearsal of a confidential launch.
//
// On SEV hardware (Config.SEV) this program only starts QEMU and waits for the
// guest's end. What protects the guest is that its owner checks the launch
// measurement before releasing a secret; the host that runs this program is
// whom it protects against. No secret passes through here. That part was not
// tried on hardware.
//
// In a simulated launch, everything inside the guest is real: OVMF verifies kernel, initrd and
// command line against the hashes table, the kernel finds the secret table,
// init opens the image and wipes the secret. Only the outside is simulated: this
// program writes both tables into the guest's memory, which on SEV hardware
// the platform's secure processor does, after the owner has seen the launch
// measurement.
//
// So a simulated launch protects nothing. The host holds the secret in the
// clear and writes it into memory that it can read at any time; nothing is
// encrypted, nothing is measured by anybody but the host itself, and no
// report proves anything to anyone. Use keys and images that may be known.
//
// Nor does what a guest prints prove anything: its console is a line from the
// guest through the host to whoever reads it.
package launch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"cocoroot/initramfs/files"
	"cocoroot/initramfs/image/manifest"
	"cocoroot/initramfs/launch/qmp"
	"cocoroot/initramfs/measure"
	"cocoroot/initramfs/measure/ovmf"
	"cocoroot/unlock/fatal"
	"cocoroot/unlock/policy"
)

var (
	// ErrConfig is returned for a Config that cannot be launched.
	ErrConfig = errors.New("the launch is not well described")
	// ErrNotBooted is returned when the firmware says that it has found
	// nothing to boot: kernel and initrd were no match for the hashes table,
	// or there was no table. (A firmware build without messages does not say
	// so, it hangs; see Config.OnSilence.)
	ErrNotBooted = errors.New("the firmware booted nothing")
)

// Disk is one virtio block device of the guest; the first becomes /dev/vda.
type Disk struct {
	Path     string // image in raw format, or block device
	Serial   string // virtio serial, at most 20 bytes; may be empty
	Writable bool   // default: opened read-only, because a sealed image never changes
}

// Forward leads a port of the loopback to one of the guest's.
type Forward struct {
	Host, Guest uint16
	UDP         bool // else TCP
}

// ParseForward reads HOSTPORT:GUESTPORT, with or without /tcp or /udp.
func ParseForward(text string) (Forward, error) {
	host, guest, _ := strings.Cut(text, ":")
	h, errHost := strconv.ParseUint(host, 10, 16)
	g, errGuest := manifest.ParsePort(guest)
	if errHost != nil || errGuest != nil || h == 0 {
		return Forward{}, fmt.Errorf("%.32q is not two ports, such as 8022:22 or 5353:53/udp", text)
	}
	return Forward{Host: uint16(h), Guest: g.Number, UDP: g.UDP}, nil
}

// ParseDisk reads FILE or FILE,serial=NAME.
func ParseDisk(s string) Disk {
	const option = ",serial="
	if i := strings.LastIndex(s, option); i >= 0 && !strings.Contains(s[i:], "/") { // else it is of a folder's name
		return Disk{Path: s[:i], Serial: s[i+len(option):]}
	}
	return Disk{Path: s}
}

// letter returns the name that Linux gives to the virtio disk of this number.
func letter(i int) string { return "vd" + string(rune('a'+i)) }

// AddWritable adds the file of a disk that the guest writes to, and will look for
// under this name.
func (c *Config) AddWritable(d policy.Disk, path string) error {
	disk := Disk{Path: path, Writable: true}
	switch here := letter(len(c.Disks)); {
	case d.Kind == policy.BySerial:
		disk.Serial = d.Name
	case d.Kind == policy.ByPath && !strings.HasPrefix(d.Name, here):
		return fmt.Errorf("%w: the guest looks for %s at %s, and would have it at /dev/%s; seal it with serial:NAME instead", ErrConfig, path, d, here)
	}
	c.Disks = append(c.Disks, disk)
	return nil
}

// Config says what to boot. The zero values of QEMU, Memory, CPUs and Accel
// mean the defaults; Firmware and Kernel are required.
type Config struct {
	QEMU     string // program; default qemu-system-x86_64
	Firmware string // path of an OVMF build with a hashes area (AmdSev)
	Kernel   string // path of a bzImage
	Initrd   string // path; empty for none
	Cmdline  string // one line, without its line break
	Disks    []Disk
	Memory   int    // MiB; default 1024
	CPUs     int    // default 1
	Accel    string // "tcg" (default) or "kvm"; always kvm with SEV

	// SEV is a launch on SEV hardware; nil is a simulated one. With it, a
	// guest that takes a secret stays stopped until another program, on
	// QMPSocket, injects the secret and says cont.
	SEV *SEV

	// SecretTable is put where the firmware expects injected secrets.
	// Run does not change it: wiping it is the caller's.
	SecretTable []byte

	// Forwards lead ports of this machine's loopback to the guest, which has
	// a network card when there is one. The host sees and changes all of it.
	Forwards []Forward

	// Program is a guest whose first process is cmds/run: it has a port on which
	// its program is asked to end when Stop is closed, and tells the exit code.
	Program bool
	Stop    <-chan struct{}

	// ExtraArgs go to the end of QEMU's command line, as they are.
	ExtraArgs []string
	// QMPSocket is the path of an additional control socket for other
	// programs. Whoever can open it can read all of the guest's memory.
	QMPSocket string

	// Channel is how the guest asks for its secrets, as its measured line says:
	// the zero value for secrets that are injected. ChannelSocket is the path of
	// the socket that QEMU makes where that is a port. For TCP and vsock, the
	// guest's network is the host's to make.
	Channel       policy.Channel
	ChannelSocket string

	// HashesTable is for attacks in tests: nil writes the table computed
	// from what boots, anything else is written instead of it, and an empty
	// slice that is not nil writes none. With other bytes than those that
	// boot, the firmware refuses.
	HashesTable []byte

	// ConsoleInput is for attacks in tests: what the host types at the
	// guest's console. Without it, the guest has nobody to read from.
	ConsoleInput io.Reader

	// OnSilence, when set, is called once if the console has not had a
	// single byte Silence after the start. Most firmware builds hang
	// without a word when a hash does not match.
	Silence   time.Duration
	OnSilence func()

	// OnStart is called before the guest's first instruction; the guest
	// goes on when it returns nil. The client may be kept and used until
	// Run returns.
	OnStart func(context.Context, *qmp.Client) error
	// OnShutdown, when set, is called when the guest has shut down, reset or
	// panicked, or the firmware has said that it boots nothing, with QEMU
	// paused and the guest's memory still there to be read (pmemsave). QEMU
	// ends when it returns.
	OnShutdown func(context.Context, *qmp.Client) error
}

// Fatal is init's line about why it did not boot the image.
type Fatal struct {
	Code fatal.Code
	Text string // what happened, and what to do about it
}

// Outcome is how a guest ended. All of it but Reason is from the console: it
// tells what a guest says, not what is true.
type Outcome struct {
	Bytes    int64  // what the console printed, the firmware's control sequences included
	Firmware string // last line that the firmware's boot manager printed
	Spoke    bool   // something other than the boot manager printed a line: the kernel ran
	Fatal    *Fatal // first FATAL line of init, nil if there was none
	Panic    string // first "Kernel panic - not syncing: …", from these words on

	Exit *int // exit code of a Program that has ended, 0 to 255

	// Reason is QEMU's: guest-shutdown, guest-reset, guest-panic,
	// host-qmp-quit, …; empty when the guest did not end by itself.
	Reason string
}

// withDefaults returns the configuration with nothing left to guess.
func (c Config) withDefaults() (Config, error) {
	accel := "tcg"
	if c.SEV != nil {
		accel = "kvm"
	}
	c.QEMU = cmp.Or(c.QEMU, "qemu-system-x86_64")
	c.Memory, c.CPUs, c.Accel = cmp.Or(c.Memory, 1024), cmp.Or(c.CPUs, 1), cmp.Or(c.Accel, accel)
	if err := c.check(); err != nil {
		return c, err
	}
	c.Disks = slices.Clone(c.Disks)
	for i := range c.Disks {
		// A name that begins with a slash is never taken for one of
		// QEMU's protocols (nbd:…, json:…).
		var err error
		if c.Disks[i].Path, err = filepath.Abs(c.Disks[i].Path); err != nil {
			return c, fmt.Errorf("cannot find a disk: %w", err)
		}
	}
	return c, nil
}

// Check returns ErrConfig for a configuration that Run would refuse before it
// opens any file.
func (c Config) Check() error {
	_, err := c.withDefaults()
	return err
}

func (c Config) check() error {
	if err := measure.CheckCmdline(c.Cmdline); err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	switch {
	case c.Firmware == "":
		return fmt.Errorf("%w: firmware is missing", ErrConfig)
	case c.Kernel == "":
		return fmt.Errorf("%w: kernel is missing", ErrConfig)
	case c.Memory < 0 || c.CPUs < 0:
		return fmt.Errorf("%w: %d MiB of memory, %d CPUs", ErrConfig, c.Memory, c.CPUs)
	case c.Accel != "tcg" && c.Accel != "kvm":
		return fmt.Errorf("%w: accelerator %q is neither tcg nor kvm", ErrConfig, c.Accel)
	case (c.OnSilence == nil) != (c.Silence == 0) || c.Silence < 0:
		return fmt.Errorf("%w: Silence and OnSilence go together", ErrConfig)
	}
	for _, d := range c.Disks {
		if d.Path == "" {
			return fmt.Errorf("%w: a disk without path", ErrConfig)
		}
		// virtio would cut a longer one without a word.
		if len(d.Serial) > 20 || strings.ContainsFunc(d.Serial, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return fmt.Errorf("%w: disk serial %q is not up to 20 printable ASCII characters without spaces", ErrConfig, d.Serial)
		}
	}
	if c.SEV != nil {
		return c.checkSEV()
	}
	return nil
}

// checkSEV refuses what only a simulated launch can have.
func (c Config) checkSEV() error {
	switch {
	case c.SecretTable != nil || c.HashesTable != nil:
		return fmt.Errorf("%w: nobody but the platform writes a confidential guest's tables", ErrConfig)
	case c.Accel != "kvm":
		return fmt.Errorf("%w: there is no SEV without KVM", ErrConfig)
	case c.CPUs > measure.MaxCPUs:
		return fmt.Errorf("%w: %d CPUs; a guest has at most %d", ErrConfig, c.CPUs, measure.MaxCPUs)
	case c.SEV.TakesSecret() && c.QMPSocket == "":
		return fmt.Errorf("%w: without a QMP socket the guest can be given no secret", ErrConfig)
	}
	if err := c.checkChannel(); err != nil {
		return err
	}
	return c.SEV.check()
}

// ready is withDefaults for a release of QEMU that has to be new enough.
func (c Config) ready(v Version) (Config, error) {
	c, err := c.withDefaults()
	if err == nil && c.SEV != nil {
		err = c.SEV.CheckVersion(v)
	}
	return c, err
}

// waits reports whether the guest stays stopped until its secret is there.
func (c Config) waits() bool { return c.SEV != nil && c.SEV.TakesSecret() }

// Run boots the guest and waits for its end, copying its console to console
// (which may be nil) as it comes. The guest gets no network but Forwards, and no
// input but ConsoleInput. When ctx ends, QEMU is killed. The outcome is also filled
// in, as far as the guest got, beside an error.
func Run(ctx context.Context, cfg Config, console io.Writer) (Outcome, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return Outcome{}, err
	}
	version, err := QEMUVersion(ctx, cfg.QEMU)
	if err != nil {
		return Outcome{}, err
	}
	if cfg, err = cfg.ready(version); err != nil {
		return Outcome{}, err
	}
	in, err := load(cfg)
	if err != nil {
		return Outcome{}, err
	}
	defer in.close()

	vm, err := start(ctx, cfg, version, in, console)
	if err != nil {
		return Outcome{}, err
	}
	err = vm.drive(ctx, cfg, in)
	return vm.finish(ctx, err)
}

// The names that CommandLine has in place of the two tables.
const (
	HashesFile = "hashes-table.bin"
	SecretFile = "secret-table.bin"
)

// CommandLine returns the program and arguments for cfg and a release of QEMU,
// to be read or to be tried by hand: with the console on standard output, and
// with HashesFile and SecretFile in place of the two tables, which on SEV
// hardware the platform writes.
func CommandLine(cfg Config, v Version) ([]string, error) {
	cfg, err := cfg.ready(v)
	if err != nil {
		return nil, err
	}
	image, err := files.Read(cfg.Firmware, files.MaxImage)
	if err != nil {
		return nil, err
	}
	fw, err := cfg.layout(image, measure.TableSize)
	if err != nil {
		return nil, err
	}
	return cfg.command(v, fw), nil
}

// command returns the program and its arguments, with the files by their names.
func (c Config) command(v Version, fw ovmf.Firmware) []string {
	n := names{firmware: c.Firmware, kernel: c.Kernel, initrd: c.Initrd}
	if c.SEV == nil {
		n.hashes = HashesFile
	}
	if len(c.SecretTable) > 0 {
		n.secret = SecretFile
	}
	return append([]string{c.QEMU}, arguments(c, v, fw, n)...)
}
