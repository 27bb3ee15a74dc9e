package main

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/measure"
	"cocoroot/initramfs/oracle"
)

// measureFiles are an empty kernel and initrd, and the firmware of the
// vectors in measure.json.
func measureFiles(t *testing.T) (firmware, empty, line string) {
	t.Helper()
	dir := t.TempDir()
	return put(t, filepath.Join(dir, "fd"), string(oracle.Vector(t, "ovmf_AmdSev_suffix.bin"))),
		put(t, filepath.Join(dir, "empty"), ""),
		put(t, filepath.Join(dir, "cmdline"), "console=ttyS0 loglevel=7\n")
}

// TestMeasure has the verb print vectors of measure.json, and nothing else.
func TestMeasure(t *testing.T) {
	fd, empty, line := measureFiles(t)
	withKernel := []string{"--kernel", empty, "--initrd", empty, "--cmdline-file", line}
	cpu := []string{"--vcpus", "1", "--vcpu-type", "EPYC-v4"}
	const (
		sev  = "82a3ee5d537c3620628270c292ae30cb40c3c878666a7890ee7ef2a08fb535ff"
		es   = "13810ae661ea11e2bb205621f582fee268f0367c8f97bc297b7fadef3e12002c"
		snp  = "6d287813eb5222d770f75005c664e34c204f385ce832cc2ce7d0d6f354454362f390ef83a92046c042e706363b4b08fa"
		bare = "19358ba9a7615534a9a1e2f0dfc29384dcd4dcb7062ff9c6013b26869a5fc6ecabe033c48dd6f6db5d6d76e7c5df632d"
		swap = "803f691094946e42068aaa3a8f9e26a5c89f36f7b73ecfb28c653360fe4b3aba7e534442e7e1e17895dfe778d0228977"
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
		"sev-snp by signature":      {"sev-snp", slices.Concat(withKernel, []string{"--vcpus", "1", "--vcpu-sig", "0x800f12"}), snp},
		"sev-snp by family":         {"sev-snp", slices.Concat(withKernel, []string{"--vcpus", "1", "--vcpu-sig", "23/1/2"}), snp},
		"sev-snp without a kernel":  {"sev-snp", cpu, bare},
		"sev-snp with debug swap":   {"sev-snp", slices.Concat(withKernel, cpu, []string{"--guest-features", "0x21"}), swap},
	} {
		code, stdout, stderr := call(t, slices.Concat([]string{"measure", "--mode", tt.mode, "--firmware", fd}, tt.args)...)
		if code != fault.OK || stdout != tt.want+"\n" || stderr != "" {
			t.Errorf("%s: %d, %q, %q; want the vector's digest", name, code, stdout, stderr)
		}
	}
}

// TestMeasureVMType sees that SEV-ES is measured as QEMU launches it: legacy,
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
	var m measure.Measurement
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

// TestMeasureHints sees that the errors for which there is a next step name it.
func TestMeasureHints(t *testing.T) {
	_, empty, _ := measureFiles(t)
	plain := put(t, filepath.Join(t.TempDir(), "fd"), string(oracle.Vector(t, "ovmf_OvmfX64_suffix.bin")))
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
