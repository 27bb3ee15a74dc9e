package main

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/oracle"
)

// measureFiles are an empty kernel and initrd, and the firmware of the
// vectors in measure.json.
func measureFiles(t *testing.T) (firmware, empty, line string) {
	t.Helper()
	dir := t.TempDir()
	return put(t, filepath.Join(dir, "fd"), string(oracle.Vector(t, "amdsev.fd"))),
		put(t, filepath.Join(dir, "empty"), ""),
		put(t, filepath.Join(dir, "cmdline"), "console=ttyS0 loglevel=7\n")
}

// TestMeasure has the verb print vectors of measure.json, and nothing else.
func TestMeasure(t *testing.T) {
	fd, empty, line := measureFiles(t)
	withKernel := []string{"--kernel", empty, "--initrd", empty, "--cmdline-file", line}
	cpu := []string{"--vcpus", "1", "--vcpu-type", "EPYC-v4"}
	const (
		none     = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" // printf "" | sha256sum
		lineHash = "321c8eec6a77bad179511397f913a083067ad8cb737bb260aacbfe8df70fc50a" // printf 'console=ttyS0 loglevel=7\0' | sha256sum

		sev  = "c5cfefd334b218a9ca9fb5ae56af6565ff0da38a7c4e5aff519739d1c15c8e1d"
		es   = "5f84f568ca309be70a211e3ab1e1d1bdcbd773820993c6bfab0dee6e99652b51"
		snp  = "44225973639df3e58542cb9fdd4e5e2144632b72b63f05637d83f9690dec94504103204e2775b93fea679025edb3e820"
		bare = "8e5504272e3c2e93c0b3ac211be61ffb4d9939195fe00dd0c889887f364de0f6347ebcedb2190e368c8d854bebdc5c71"
		swap = "3d10b9750ac991cdcf672b8fb47f0a6816231347885ee2ab0806bac97e69dd7351449a4a8e536f6503b2c5a2a8f95050"
	)
	for name, tt := range map[string]struct {
		mode string
		args []string
		want string
	}{
		"sev":                       {"sev", withKernel, sev},
		"sev, cmdline as text":      {"sev", []string{"--kernel", empty, "--cmdline", "console=ttyS0 loglevel=7"}, sev},
		"sev, with what it ignores": {"sev", slices.Concat(withKernel, cpu, []string{"--vm-type", "init2"}), sev},
		"sev-es":                    {"sev-es", slices.Concat([]string{"--kernel", empty, "--vm-type", "init2"}, cpu), es},
		"sev-snp":                   {"sev-snp", slices.Concat(withKernel, cpu), snp},
		"sev-snp of hashes": {"sev-snp", slices.Concat([]string{"--kernel-hash", none, "--initrd-hash", none,
			"--cmdline-hash", lineHash}, cpu), snp},
		"sev-snp, a hash and a file": {"sev-snp", slices.Concat([]string{"--kernel-hash", none, "--cmdline-file", line}, cpu), snp},
		"sev-snp by signature":       {"sev-snp", slices.Concat(withKernel, []string{"--vcpus", "1", "--vcpu-sig", "0x800f12"}), snp},
		"sev-snp by family":          {"sev-snp", slices.Concat(withKernel, []string{"--vcpus", "1", "--vcpu-sig", "23/1/2"}), snp},
		"sev-snp without a kernel":   {"sev-snp", cpu, bare},
		"sev-snp with debug swap":    {"sev-snp", slices.Concat(withKernel, cpu, []string{"--guest-features", "0x21"}), swap},
	} {
		code, stdout, stderr := call(t, slices.Concat([]string{"measure", "--mode", tt.mode, "--firmware", fd}, tt.args)...)
		if code != fault.OK || stdout != tt.want+"\n" || stderr != "" {
			t.Errorf("%s: %d, %q, %q; want the vector's digest", name, code, stdout, stderr)
		}
	}
}

// TestMeasureVMType checks that SEV-ES is measured as QEMU launches it: legacy,
// unless guest features need the other type.
func TestMeasureVMType(t *testing.T) {
	fd, _, _ := measureFiles(t)
	run := func(more ...string) string {
		code, stdout, stderr := call(t, append([]string{"measure", "--mode", "sev-es", "--firmware", fd, "--vcpus", "2", "--vcpu-type", "EPYC-v4"}, more...)...)
		if code != fault.OK {
			t.Fatalf("%q: %d, %s", more, code, stderr)
		}
		return stdout
	}
	legacy, init2 := run("--vm-type", "legacy"), run("--vm-type", "init2")
	if legacy == init2 {
		t.Error("legacy and init2 have the same digest")
	}
	if got := run(); got != legacy {
		t.Errorf("without --vm-type the digest is %q; want legacy's", got)
	}
	swap := run("--guest-features", "0x20", "--vm-type", "init2")
	if got := run("--guest-features", "0x20"); got != swap || got == init2 {
		t.Errorf("with guest features the digest is %q; want init2's with them", got)
	}
}

func TestMeasureJSON(t *testing.T) {
	fd, empty, line := measureFiles(t)
	code, stdout, stderr := call(t, "measure", "--mode", "sev-snp", "--firmware", fd, "--kernel", empty, "--cmdline-file", line, "--vcpus", "4", "--vcpu-type", "EPYC-v4", "--json")
	var m struct {
		Version      int
		Mode, Digest string
		Steps        []struct{ Name, Digest string }
		Hashes       *struct{ Kernel, Initrd, Cmdline, Table string }
		VCPUs        *struct {
			Count     int
			Signature string
			BSP       string `json:"bsp_vmsa_sha256"`
			AP        string `json:"ap_vmsa_sha256"`
		}
	}
	if err := json.Unmarshal([]byte(stdout), &m); code != fault.OK || err != nil {
		t.Fatalf("%d, %v, %s", code, err, stderr)
	}
	var names []string
	for _, s := range m.Steps {
		names = append(names, s.Name)
	}
	want := "firmware sec_mem sec_mem secrets cpuid svsm_caa kernel_hashes sec_mem vmsa vmsa vmsa vmsa"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("steps = %s; want %s", got, want)
	}
	if m.Version != 1 || m.Mode != "sev-snp" || m.Digest != m.Steps[len(m.Steps)-1].Digest || len(m.Digest) != 96 {
		t.Errorf("measurement = %+v; want the last step's digest", m)
	}
	if m.Hashes == nil || len(m.Hashes.Table) != 2*176 || !strings.Contains(m.Hashes.Table, m.Hashes.Cmdline) || m.Hashes.Kernel != m.Hashes.Initrd {
		t.Errorf("hashes = %+v; want two of nothing, and all in the table", m.Hashes)
	}
	if m.VCPUs == nil || m.VCPUs.Count != 4 || m.VCPUs.Signature != "0x800f12" || m.VCPUs.BSP == m.VCPUs.AP {
		t.Errorf("vcpus = %+v", m.VCPUs)
	}
}

// TestMeasureHints checks that the errors for which there is a next step name it.
func TestMeasureHints(t *testing.T) {
	_, empty, _ := measureFiles(t)
	plain := put(t, filepath.Join(t.TempDir(), "fd"), string(oracle.Vector(t, "ovmfx64.fd")))
	for _, mode := range []string{"sev", "sev-es", "sev-snp"} {
		code, stdout, stderr := call(t, "measure", "--mode", mode, "--firmware", plain, "--kernel", empty, "--vcpus", "1", "--vcpu-type", "EPYC")
		if code != fault.Failed || stdout != "" || !strings.Contains(stderr, "no place") || !strings.Contains(stderr, "hint: ") {
			t.Errorf("%s: %d, %q, %q; want refused, with the firmware to use", mode, code, stdout, stderr)
		}
	}
	code, _, stderr := call(t, "measure", "--mode", "sev-snp", "--firmware", plain, "--vcpus", "1", "--vcpu-type", "EPYC-Bologna")
	if code != fault.Usage || !strings.Contains(stderr, "EPYC-Milan-v2") {
		t.Errorf("unknown type: %d, %q; want the known names", code, stderr)
	}
}
