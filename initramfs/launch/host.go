package launch

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"cocoroot/initramfs/launch/qmp"
)

// ErrNoSEV is returned for a host that cannot launch a guest of the mode.
var ErrNoSEV = errors.New("this host cannot launch such a guest")

// probeTime is how long QEMU may take to say what the host can do.
const probeTime = 30 * time.Second

// CheckHost looks for what a launch of the mode needs, below the host's root:
// flags of the CPU, parameters of kvm_amd, and devices. What it finds missing
// is in the error, ErrNoSEV. It protects nobody from a host that lies.
func CheckHost(root fs.FS, m Mode) error {
	needs := []string{"sev"}
	switch m {
	case ModeES:
		needs = append(needs, "sev_es")
	case ModeSNP:
		needs = append(needs, "sev_es", "sev_snp")
	}
	flags := cpuFlags(root)
	var missing []string
	for _, n := range needs {
		if !slices.Contains(flags, n) {
			missing = append(missing, "/proc/cpuinfo has no flag "+n)
		}
		name := "sys/module/kvm_amd/parameters/" + n
		if b, err := fs.ReadFile(root, name); err != nil {
			missing = append(missing, "no /"+name)
		} else if text := strings.TrimSpace(string(b)); text != "Y" && text != "1" {
			missing = append(missing, fmt.Sprintf("/%s is %.8q", name, text))
		}
	}
	for _, device := range []string{"dev/kvm", "dev/sev"} {
		if _, err := fs.Stat(root, device); err != nil {
			missing = append(missing, "no /"+device)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("%w (%s): %s", ErrNoSEV, m, strings.Join(missing, "; "))
	}
	return nil
}

// cpuFlags returns the flags of the first CPU.
func cpuFlags(root fs.FS) []string {
	f, err := root.Open("proc/cpuinfo")
	if err != nil {
		return nil
	}
	defer f.Close()
	lines := bufio.NewScanner(io.LimitReader(f, 1<<20))
	for lines.Scan() {
		if name, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == "flags" {
			return strings.Fields(value)
		}
	}
	return nil
}

// Capabilities asks a QEMU without a guest for the host's C-bit and the
// address bits that memory encryption costs.
func Capabilities(ctx context.Context, program string) (cbit, reducedPhysBits int, err error) {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	conn, theirs, err := socketPair()
	if err != nil {
		return 0, 0, err
	}
	defer conn.Close()
	words := new(tail)
	cmd := exec.CommandContext(ctx, program, "-no-user-config", "-nodefaults", "-display", "none", "-S",
		"-machine", "none", "-accel", "kvm", "-chardev", "socket,id=control,fd=3", "-mon", "chardev=control,mode=control")
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stdout, cmd.Stderr = words, words
	cmd.WaitDelay = grace
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return 0, 0, &QEMUError{Err: err}
	}
	cbit, reducedPhysBits, err = queryCapabilities(ctx, conn)
	if err != nil && !errors.Is(err, qmp.ErrClosed) {
		cancel() // it may not be QEMU at all
	}
	if waitErr := cmd.Wait(); errors.Is(err, qmp.ErrClosed) {
		if waitErr == nil {
			waitErr = err
		}
		return 0, 0, &QEMUError{Err: waitErr, Stderr: words.words()}
	}
	if err != nil {
		return 0, 0, fmt.Errorf("cannot ask QEMU what this host can do: %w", err)
	}
	return cbit, reducedPhysBits, nil
}

func queryCapabilities(ctx context.Context, conn net.Conn) (cbit, reducedPhysBits int, err error) {
	client, err := qmp.New(ctx, conn)
	if err != nil {
		return 0, 0, err
	}
	defer client.Close()
	var can struct {
		CBit            int `json:"cbitpos"`
		ReducedPhysBits int `json:"reduced-phys-bits"`
	}
	err = client.Execute(ctx, "query-sev-capabilities", nil, &can)
	if quit := client.Execute(ctx, "quit", nil, nil); err == nil && !errors.Is(quit, qmp.ErrClosed) {
		err = quit
	}
	return can.CBit, can.ReducedPhysBits, err
}

// own reports whether the file is this user's.
func own(fi fs.FileInfo) bool {
	stat, ok := fi.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Geteuid()
}

// CheckSocket refuses a place for a QMP socket that others than this user can
// get at: who can open the socket holds the guest.
func CheckSocket(socket string) error {
	dir := filepath.Dir(socket)
	fi, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("cannot use %s as QMP socket: %w", socket, err)
	}
	if !fi.IsDir() || fi.Mode().Perm()&0o077 != 0 || !own(fi) {
		return fmt.Errorf("%w: others than this user can get at %s, and so at the QMP socket", ErrConfig, dir)
	}
	return nil
}
