package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/image/manifest"
	"cocoroot/initramfs/oracle"
	"cocoroot/unlock/policy"
	"cocoroot/unlock/program"
)

// aContainer is a container image with a program that runs by itself.
func aContainer(t *testing.T, config map[string]any) string {
	t.Helper()
	oracle.Tool(t, "mksquashfs")
	dir := t.TempDir()
	data, err := os.ReadFile(oracle.Artifact(t, "run"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "app"), data, 0o755); err != nil {
		t.Fatal(err)
	}
	layer := filepath.Join(dir, "layer.tar")
	oracle.Run(t, "tar", "-C", dir, "--owner=0", "--group=0", "-cf", layer, "app")
	oracle.Layout(t, filepath.Join(dir, "layout"), config, layer)
	return filepath.Join(dir, "layout")
}

// service is the configuration of an image that listens.
var service = map[string]any{
	"Entrypoint": []string{"/app"}, "StopSignal": "SIGQUIT", "Volumes": map[string]any{"/data": struct{}{}},
	"ExposedPorts": map[string]any{"80/tcp": struct{}{}, "5353/udp": struct{}{}},
}

func TestSealContainer(t *testing.T) {
	layout, image := aContainer(t, service), filepath.Join(t.TempDir(), "image")
	code, _, stderr := call(t, "seal", layout, "-o", image, "--run", oracle.Artifact(t, "run"), "--network", "10.0.0.2/24,10.0.0.1,10.0.0.3", "--stop-timeout", "1m",
		"--secret-file", "a="+guid, "--", "serve")
	if code != fault.OK {
		t.Fatalf("seal = %d, %s", code, stderr)
	}
	m := readManifest(t, image+".manifest.json")
	want := `{"ports":["80/tcp","5353/udp"],"volumes":["/data"],"stop_signal":3}`
	if text, err := json.Marshal(m.Program); err != nil || string(text) != want {
		t.Errorf("the manifest has %s, %v; want %s", text, err, want)
	}
	if !slices.Contains(strings.Fields(m.Cmdline), "init="+program.Path) {
		t.Errorf("the line is %s; want init=%s", m.Cmdline, program.Path)
	}

	r := newGuestRig(t)
	args := slices.Concat([]string{"launch", "--simulate", "--dry-run", "--cmdline-file", image + ".cmdline", "--disk", image}, r.shared[:6])
	for _, publish := range []string{"--publish", "--publish=" + image + ".manifest.json"} {
		code, out, stderr := call(t, append(args, publish)...)
		if want := "hostfwd=tcp:127.0.0.1:8080-:80,hostfwd=udp:127.0.0.1:5353-:5353 "; code != fault.OK || !strings.Contains(out, want) {
			t.Errorf("launch %s = %d, %s%s; want %s", publish, code, out, stderr, want)
		}
	}
	if code, _, stderr := call(t, append(args, "--publish="+r.manifest)...); code != fault.Failed || !strings.Contains(stderr, "names no ports") {
		t.Errorf("launch --publish of another image = %d, %s", code, stderr)
	}
}

func readManifest(t *testing.T, path string) manifest.Manifest {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	m, err := manifest.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// An image that is started as it is has nothing of ours in it.
// dbPassword is an entry that is a credential.
const dbPassword = "db-password=3f1a3a0e-6a1c-4f0e-9b53-7d7c1a2b9c10"

func TestSealContainerWithInit(t *testing.T) {
	image := filepath.Join(t.TempDir(), "image")
	code, _, stderr := call(t, "seal", aContainer(t, service), "-o", image, "--init", "/app", "--credentials", dbPassword)
	if code != fault.OK {
		t.Fatalf("seal = %d, %s", code, stderr)
	}
	if m := readManifest(t, image+".manifest.json"); m.Program != nil || !strings.Contains(m.Cmdline, "init=/app") || !strings.Contains(m.Cmdline, " cocoroot.credential="+dbPassword) {
		t.Errorf("the manifest is %+v; want nothing of a container image", m)
	}
}

func TestSealContainerRefuses(t *testing.T) {
	run, me := oracle.Artifact(t, "run"), filepath.Join(t.TempDir(), "me")
	if code, _, stderr := call(t, "owner", "new", "-o", me); code != fault.OK {
		t.Fatalf("owner new = %d, %s", code, stderr)
	}
	for name, tc := range map[string]struct {
		code int
		want string
		args []string
	}{
		"no program":              {fault.Failed, "neither Entrypoint nor Cmd, which say what to start, and no init:\n    no-init: /sbin/init", []string{aContainer(t, nil)}},
		"nothing to do":           {fault.Failed, "hint: name the program, after all options: -- PROGRAM", []string{aContainer(t, nil)}},
		"a missing user":          {fault.Failed, `its user "nobody"`, []string{aContainer(t, map[string]any{"Cmd": []string{"/app"}, "User": "nobody"})}},
		"an unknown signal":       {fault.Failed, `there is no signal "SIGWHAT"`, []string{aContainer(t, map[string]any{"Cmd": []string{"/app"}, "StopSignal": "SIGWHAT"})}},
		"no run":                  {fault.Failed, "./build.sh tools builds it", []string{aContainer(t, service), "--run", me + ".absent"}},
		"another run":             {fault.Failed, "cannot put run into the image: it is ", []string{aContainer(t, service), "--run", oracle.Artifact(t, "init")}},
		"a folder":                {fault.Usage, "are for a container image", []string{aRoot(t), "--network", "none"}},
		"a folder with arguments": {fault.Usage, "are for a container image", []string{aRoot(t), "--", "x"}},
		"an init":                 {fault.Usage, "--init starts the program itself", []string{aContainer(t, service), "--init", "/app", "--stop-timeout", "1s"}},
		"two roots":               {fault.Usage, "it got 2", []string{aContainer(t, service), "x", "--", "x"}},
		"the line's port":         {fault.Usage, "is the port by which", []string{aContainer(t, service), "--owner", me + ".pub", "--channel", "serial:ttyS1"}},
		"a network":               {fault.Usage, "is not dhcp", []string{aContainer(t, service), "--network", "auto"}},
		"a gateway":               {fault.Failed, "in which the gateway", []string{aContainer(t, service), "--network", "10.0.0.2/24,10.1.0.1"}},
		"half seconds":            {fault.Usage, "not a whole number of seconds", []string{aContainer(t, service), "--stop-timeout", "1.5s"}},
		"a secret":                {fault.Usage, "is not NAME=GUID", []string{aContainer(t, service), "--secret-env", guid}},
		"a credential":            {fault.Usage, "--secret-file gives a container image's program an entry", []string{aContainer(t, service), "--credentials", dbPassword}},
		"a credential's name":     {fault.Usage, "is not NAME=GUID", []string{aRoot(t), "--credentials", "a:b=" + guid}},
		"the disk key":            {fault.Failed, "for init only", []string{aRoot(t), "--credentials", "a=" + policy.DefaultKey.String()}},
		"a secret's name":         {fault.Failed, "not the name of a variable", []string{aContainer(t, service), "--secret-env", "a-b=" + guid}},
	} {
		image := filepath.Join(t.TempDir(), "image")
		code, out, stderr := call(t, slices.Concat([]string{"seal", "-o", image, "--run", run}, tc.args)...)
		if code != tc.code || out != "" || !strings.Contains(stderr, tc.want) {
			t.Errorf("%s = %d, %q, %q; want %d and %q", name, code, out, stderr, tc.code, tc.want)
		}
		if left := names(t, filepath.Dir(image)); len(left) > 0 {
			t.Errorf("%s left %q", name, left)
		}
	}
}
