package doctor

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"golang.org/x/sys/unix"

	"cocoroot/initramfs/launch"
	"cocoroot/initramfs/measure/ovmf"
	"cocoroot/initramfs/oracle"
)

// perfect returns a machine on which everything works.
func perfect(t *testing.T) Machine {
	dir := t.TempDir()
	image := oracle.Vector(t, "amdsev.fd")
	for name, data := range map[string][]byte{"OVMF.amdsev.fd": image, "bzImage": nil, "initrd.img": nil, "run": nil} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	own, err := ovmf.ParseOwn(fmt.Sprintf("%x tests", sha256.Sum256(image)))
	if err != nil {
		t.Fatal(err)
	}
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	return Machine{
		Root: fstest.MapFS{
			"sys/module/kvm_amd/parameters/sev":     file("Y"),
			"sys/module/kvm_amd/parameters/sev_es":  file("Y"),
			"sys/module/kvm_amd/parameters/sev_snp": file("Y"),
			"dev/kvm":                               file(""), "dev/sev": file(""), "dev/sev-guest": file(""),
			"proc/sys/user/max_user_namespaces": file("1000\n"),
		},
		Beside: dir,
		Find:   func(program string) (string, error) { return "/bin/" + program, nil },
		QEMU:   func(context.Context, string) (launch.Version, error) { return launch.Version{Major: 10}, nil },
		Open:   func(string) error { return nil },
		Locked: unix.RLIM_INFINITY,
		Own:    own,
	}
}

// Where everything works, nothing is left to do; each thing that does not is
// named, with what to do, and only what a simulated launch needs fails it.
func TestCheck(t *testing.T) {
	if r := perfect(t).Check(t.Context()); !r.Simulates {
		t.Errorf("a perfect machine: %+v", r)
	} else {
		for _, f := range r.Findings {
			if !f.OK || f.Do != "" || f.Says == "" {
				t.Errorf("a perfect machine: %+v", f)
			}
		}
	}
	absent := &fs.PathError{Err: fs.ErrNotExist}
	for name, tc := range map[string]struct {
		finding   string
		simulates bool
		breaks    func(*Machine)
	}{
		"no QEMU": {"QEMU", false, func(m *Machine) { m.Find = func(string) (string, error) { return "", errors.New("no") } }},
		"broken QEMU": {"QEMU", false, func(m *Machine) {
			m.QEMU = func(context.Context, string) (v launch.Version, err error) { return v, errors.New("no") }
		}},
		"old QEMU": {"QEMU", false, func(m *Machine) {
			m.QEMU = func(context.Context, string) (launch.Version, error) { return launch.Version{Major: 6}, nil }
		}},
		"QEMU of Debian": {"QEMU for SNP", true, func(m *Machine) {
			m.QEMU = func(context.Context, string) (launch.Version, error) { return launch.Version{Major: 7, Minor: 2}, nil }
		}},
		"no firmware":    {"firmware", false, func(m *Machine) { os.Remove(filepath.Join(m.Beside, "OVMF.amdsev.fd")) }},
		"other firmware": {"firmware", true, func(m *Machine) { m.Own = ovmf.Own{} }},
		"plain firmware": {"firmware", false, func(m *Machine) {
			os.WriteFile(filepath.Join(m.Beside, "OVMF.amdsev.fd"), oracle.Vector(t, "ovmfx64.fd"), 0o600)
		}},
		"no kernel": {"bzImage", false, func(m *Machine) { os.Remove(filepath.Join(m.Beside, "bzImage")) }},
		"no initrd": {"initrd.img", false, func(m *Machine) { os.Remove(filepath.Join(m.Beside, "initrd.img")) }},
		"no run":    {"run", true, func(m *Machine) { os.Remove(filepath.Join(m.Beside, "run")) }},
		"no mksquashfs": {"mksquashfs", true, func(m *Machine) {
			m.Find = func(p string) (string, error) { return p, map[string]error{"mksquashfs": absent}[p] }
		}},
		"no KVM": {"/dev/kvm", true, func(m *Machine) { m.Open = func(d string) error { return map[string]error{"/dev/kvm": absent}[d] } }},
		"forbidden SEV": {"/dev/sev", true, func(m *Machine) {
			m.Open = func(d string) error { return map[string]error{"/dev/sev": &fs.PathError{Err: fs.ErrPermission}}[d] }
		}},
		"no SNP":        {"sev-snp", true, func(m *Machine) { delete(m.Root.(fstest.MapFS), "sys/module/kvm_amd/parameters/sev_snp") }},
		"little memory": {"locked memory", true, func(m *Machine) { m.Locked = 8 << 20 }},
		"no namespaces": {"user namespaces", true, func(m *Machine) {
			m.Root.(fstest.MapFS)["proc/sys/kernel/unprivileged_userns_clone"] = &fstest.MapFile{Data: []byte("0\n")}
		}},
	} {
		m := perfect(t)
		tc.breaks(&m)
		r := m.Check(t.Context())
		if r.Simulates != tc.simulates {
			t.Errorf("%s: simulates %t; want %t", name, r.Simulates, tc.simulates)
		}
		seen := false
		for _, f := range r.Findings {
			if f.Name == tc.finding {
				seen = true
				if f.OK != (name == "other firmware") || f.Do == "" {
					t.Errorf("%s: %+v; want what to do", name, f)
				}
			}
		}
		if !seen {
			t.Errorf("%s: nothing is said of it: %+v", name, r)
		}
		var text bytes.Buffer
		if r.Print(&text); !strings.Contains(text.String(), "to do: ") {
			t.Errorf("%s prints\n%s", name, &text)
		}
	}
}

// This machine is looked at, and the report is JSON too.
func TestHere(t *testing.T) {
	m, err := Here(ovmf.Own{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(m.Check(t.Context()))
	if err != nil || !strings.HasPrefix(string(b), `{"simulates":false,"findings":[{"name":"QEMU"`) {
		t.Errorf("a test's own folder has no firmware: %v, %s", err, b)
	}
}
