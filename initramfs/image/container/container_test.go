package container

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"cocoroot/initramfs/image/fsimage"
	"cocoroot/initramfs/image/manifest"
	"cocoroot/unlock/program"
)

// image returns the files of an image: a shell, and a script for it.
func image(t *testing.T) *fsimage.Node {
	t.Helper()
	dir := t.TempDir()
	elf, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]string{
		"bin/sh": string(elf[:1<<20]), "lib64/ld-linux-x86-64.so.2": "the loader of that, in a build with cgo", "srv/start": "#!/bin/sh\n", "srv/broken": "#!/bin/bash\n", "srv/data": "x", "usr/bin/data": "x",
		"etc/passwd": "root:x:0:0::/root:/bin/sh\napp:x:1000:100::/home/app:\nfar:x:4294967296:1::/:\n",
		"etc/group":  "root:x:0:\nextra:x:5000:other,app\nweb:x:33:\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		mode := os.FileMode(0o755)
		if strings.HasSuffix(name, "data") {
			mode = 0o644
		}
		if err := os.WriteFile(path, []byte(data), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/srv/start", filepath.Join(dir, "usr/bin/start")); err != nil {
		t.Fatal(err)
	}
	folder, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { folder.Close() })
	root, err := fsimage.Of(folder.FS().(fs.ReadLinkFS))
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func TestResolve(t *testing.T) {
	root := image(t)
	const usual = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	whole := program.Spec{
		Path: "/bin/sh", Args: []string{"sh"}, Env: []string{usual, "HOSTNAME=guest", "HOME=/root"}, Dir: "/", StopSignal: 15, Hostname: "guest",
	}
	for name, tc := range map[string]struct {
		config v1.ImageConfig
		o      Options
		want   func(s *program.Spec)
	}{
		"least": {v1.ImageConfig{Cmd: []string{"sh"}}, Options{}, func(*program.Spec) {}},
		"entrypoint and command": {v1.ImageConfig{Entrypoint: []string{"sh", "-c"}, Cmd: []string{"true"}}, Options{}, func(s *program.Spec) {
			s.Args = []string{"sh", "-c", "true"}
		}},
		"arguments for the command": {v1.ImageConfig{Entrypoint: []string{"sh"}, Cmd: []string{"a", "b"}}, Options{Args: []string{"c"}}, func(s *program.Spec) {
			s.Args = []string{"sh", "c"}
		}},
		"through a link": {v1.ImageConfig{Cmd: []string{"start"}}, Options{}, func(s *program.Spec) {
			s.Args, s.Path = []string{"start"}, "/usr/bin/start"
		}},
		"beside the working folder": {v1.ImageConfig{Cmd: []string{"../srv/start"}, WorkingDir: "/bin"}, Options{}, func(s *program.Spec) {
			s.Args, s.Path, s.Dir = []string{"../srv/start"}, "/srv/start", "/bin"
		}},
		"its own PATH and HOME": {v1.ImageConfig{Cmd: []string{"start"}, Env: []string{"PATH=/usr:.", "HOME=/x", "A=b"}, WorkingDir: "srv/"}, Options{}, func(s *program.Spec) {
			s.Args, s.Path, s.Dir = []string{"start"}, "/srv/start", "/srv"
			s.Env = []string{"PATH=/usr:.", "HOME=/x", "A=b", "HOSTNAME=guest"}
		}},
		"a user with groups": {v1.ImageConfig{Cmd: []string{"sh"}, User: "app"}, Options{}, func(s *program.Spec) {
			s.UID, s.GID, s.Groups, s.Env[2] = 1000, 100, []uint32{5000}, "HOME=/home/app"
		}},
		"a user with a group": {v1.ImageConfig{Cmd: []string{"sh"}, User: "app:web"}, Options{}, func(s *program.Spec) {
			s.UID, s.GID, s.Env[2] = 1000, 33, "HOME=/home/app"
		}},
		"numbers that nobody has": {v1.ImageConfig{Cmd: []string{"sh"}, User: "7:8"}, Options{}, func(s *program.Spec) {
			s.UID, s.GID, s.Env[2] = 7, 8, "HOME=/"
		}},
		"a signal of its own": {v1.ImageConfig{Cmd: []string{"sh"}, StopSignal: "SIGRTMIN+3"}, Options{Grace: 30}, func(s *program.Spec) {
			s.StopSignal, s.Grace = 37, 30
		}},
		"a signal's number": {v1.ImageConfig{Cmd: []string{"sh"}, StopSignal: "3"}, Options{}, func(s *program.Spec) { s.StopSignal = 3 }},
	} {
		want := whole
		want.Env = slices.Clone(whole.Env)
		tc.want(&want)
		if p, err := Resolve(root, tc.config, tc.o); err != nil || !reflect.DeepEqual(p.Spec, want) {
			t.Errorf("%s: Resolve = %+v, %v\nwant %+v", name, p.Spec, err, want)
		}
	}
}

// What an image asks for and cannot have is refused, with the reason.
func TestResolveRefuses(t *testing.T) {
	root := image(t)
	volume := func(name string) map[string]struct{} { return map[string]struct{}{name: {}} }
	for _, tc := range []struct {
		config v1.ImageConfig
		want   string
	}{
		{v1.ImageConfig{}, "it names no program"},
		{v1.ImageConfig{Entrypoint: []string{""}}, "it names no program"},
		{v1.ImageConfig{Cmd: []string{"absent"}}, `its program "absent": it is in no folder of the PATH`},
		{v1.ImageConfig{Cmd: []string{"data"}}, `its program "data": it is not an executable file`},
		{v1.ImageConfig{Cmd: []string{"/absent"}}, `its program "/absent": it is not there`},
		{v1.ImageConfig{Cmd: []string{"/srv/data"}}, "it is not an executable file"},
		{v1.ImageConfig{Cmd: []string{"/srv/broken"}}, `its interpreter "/bin/bash": it is not there`},
		{v1.ImageConfig{Cmd: []string{"sh"}, User: "nobody"}, `its user "nobody"`},
		{v1.ImageConfig{Cmd: []string{"sh"}, User: "app:nobody"}, `its user "app:nobody"`},
		{v1.ImageConfig{Cmd: []string{"sh"}, User: "far"}, "has the number 4294967296"},
		{v1.ImageConfig{Cmd: []string{"sh"}, User: "-1"}, `its user "-1"`},
		{v1.ImageConfig{Cmd: []string{"sh"}, StopSignal: "SIGSTOPPED"}, `there is no signal "SIGSTOPPED"`},
		{v1.ImageConfig{Cmd: []string{"sh"}, StopSignal: "99"}, "there is no signal 99"},
		{v1.ImageConfig{Cmd: []string{"sh"}, WorkingDir: "/proc/1"}, `its working folder "/proc/1" is where the guest has its own files`},
		{v1.ImageConfig{Cmd: []string{"sh"}, WorkingDir: "/bin/sh"}, `"/bin/sh" is not a folder`},
		{v1.ImageConfig{Cmd: []string{"sh"}, Volumes: volume("/run/cocoroot/x")}, "is where the guest has its own files"},
		{v1.ImageConfig{Cmd: []string{"sh"}, Volumes: volume("/cocoroot")}, "is where the guest has its own files"},
		{v1.ImageConfig{Cmd: []string{"sh"}, ExposedPorts: volume("80/sctp")}, `its port "80/sctp"`},
		{v1.ImageConfig{Cmd: []string{"sh"}, ExposedPorts: volume("0")}, `its port "0"`},
		{v1.ImageConfig{Cmd: []string{"sh"}, Env: []string{"HOME"}}, "a variable is not NAME=VALUE"},
		{v1.ImageConfig{Cmd: []string{"sh", "\xff"}}, "is not UTF-8"},
	} {
		_, err := Resolve(root, tc.config, Options{})
		if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("Resolve(%+v) = %v; want ErrConfig with %q", tc.config, err, tc.want)
		}
	}
}

// An image without any file but its program gets what every program expects.
func TestLayer(t *testing.T) {
	p, err := Resolve(image(t), v1.ImageConfig{
		Cmd: []string{"sh"}, WorkingDir: "/new/work", Volumes: map[string]struct{}{"/data": {}, "/srv": {}},
		ExposedPorts: map[string]struct{}{"443": {}, "53/udp": {}, "53/tcp": {}},
	}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	about := manifest.Program{StopSignal: 15, Volumes: []string{"/data", "/srv"}, Ports: []manifest.Port{{Number: 53}, {Number: 53, UDP: true}, {Number: 443}}}
	if !reflect.DeepEqual(p.About, about) {
		t.Errorf("About = %+v; want %+v", p.About, about)
	}
	text, err := p.Layer([]byte("the first process"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for r := tar.NewReader(bytes.NewReader(text)); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, h.FileInfo().Mode().String()+" "+h.Name)
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if spec, err := program.Parse(data); h.Name == "cocoroot/run.json" && (err != nil || spec.Dir != "/new/work") {
			t.Errorf("run.json = %+v, %v", spec, err)
		}
	}
	want := []string{
		"drwxr-xr-x new/work/", "drwxr-xr-x data/", "drwxr-xr-x dev/", "drwxr-xr-x proc/", "drwxr-xr-x sys/", "dtrwxrwxrwx tmp/", "drwxr-xr-x run/cocoroot/",
		"drwxr-xr-x cocoroot/", "-rwxr-xr-x cocoroot/run", "-r-------- cocoroot/run.json",
	}
	if !slices.Equal(got, want) {
		t.Errorf("Layer has %q; want %q", got, want)
	}
	again, err := p.Layer([]byte("the first process"))
	if err != nil || !bytes.Equal(again, text) {
		t.Errorf("a second Layer differs, or %v", err)
	}
}
