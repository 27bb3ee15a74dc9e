// Package container resolves what a container image's configuration says, against
// the files of the image, into what the guest's first process starts (package
// program): names become numbers and paths, here and not in the guest. What an
// image asks for and cannot have is an error that says so.
//
// As docker and podman do, it takes Entrypoint, Cmd, Env, User, WorkingDir,
// StopSignal, ExposedPorts and Volumes (OCI image-spec v1.1.1, config.md). It checks
// nothing of what the program does.
package container

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"path"
	"slices"
	"strings"

	"github.com/moby/sys/signal"
	"github.com/moby/sys/user"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"cocoroot/initramfs/image/audit"
	"cocoroot/initramfs/image/fsimage"
	"cocoroot/initramfs/image/manifest"
	"cocoroot/unlock/program"
)

// ErrConfig is returned for an image that cannot run as its configuration says.
var ErrConfig = errors.New("the container image cannot run as its configuration says")

// Options is what the owner says beside the image.
type Options struct {
	Args    []string // take the place of Cmd, unless there are none
	Network program.Network
	Grace   int // seconds from the stop signal to SIGKILL
	Secrets []program.Secret
}

// Program is what becomes of an image.
type Program struct {
	Spec    program.Spec
	About   manifest.Program
	folders []string // that the image lacks
}

// Names reports whether a configuration names a program.
func Names(c v1.ImageConfig) bool { return len(c.Entrypoint)+len(c.Cmd) > 0 }

// defaultPath is where programs are looked for when the image does not say.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// hostname is every guest's; a program that asks for another sets it itself.
const hostname = "guest"

// Resolve reads a configuration. The files are those below root.
func Resolve(root *fsimage.Node, c v1.ImageConfig, o Options) (Program, error) {
	r := resolver{root: root}
	p := r.program(c, o)
	if r.err == nil {
		_, r.err = p.Spec.Marshal()
	}
	if r.err != nil {
		return Program{}, fmt.Errorf("%w: %w", ErrConfig, r.err)
	}
	return p, nil
}

// resolver keeps the first error.
type resolver struct {
	root    *fsimage.Node
	folders []string
	err     error
}

func (r *resolver) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
}

func (r *resolver) program(c v1.ImageConfig, o Options) Program {
	args := slices.Concat(c.Entrypoint, c.Cmd)
	if len(o.Args) > 0 {
		args = slices.Concat(c.Entrypoint, o.Args)
	}
	s := program.Spec{
		Args: args, Env: slices.Clone(c.Env), Dir: path.Join("/", c.WorkingDir), Hostname: hostname,
		Grace: o.Grace, Network: o.Network, Secrets: o.Secrets,
	}
	home := r.user(c.User, &s)
	for _, v := range []string{defaultPath, "HOSTNAME=" + hostname, "HOME=" + home} {
		name, _, _ := strings.Cut(v, "=")
		if !slices.ContainsFunc(s.Env, func(e string) bool { return strings.HasPrefix(e, name+"=") }) {
			s.Env = append(s.Env, v)
		}
	}
	if stop, err := signal.ParseSignal(cmp.Or(c.StopSignal, "SIGTERM")); err != nil {
		r.fail("there is no signal %.32q, which it stops by", c.StopSignal)
	} else {
		s.StopSignal = int(stop)
	}
	r.folder("working folder", s.Dir)
	about := manifest.Program{StopSignal: s.StopSignal, Volumes: slices.Sorted(maps.Keys(c.Volumes))}
	for i, v := range about.Volumes {
		about.Volumes[i] = path.Join("/", v)
		r.folder("volume", about.Volumes[i])
	}
	for _, dir := range []string{"/dev", "/proc", "/sys", "/tmp", ownRun} {
		r.want(dir)
	}
	for _, text := range slices.Sorted(maps.Keys(c.ExposedPorts)) {
		port, err := manifest.ParsePort(text)
		if err != nil {
			r.fail("its port %w", err)
		}
		about.Ports = append(about.Ports, port)
	}
	slices.SortStableFunc(about.Ports, func(a, b manifest.Port) int { return cmp.Compare(a.Number, b.Number) })
	s.Path = r.executable(s)
	return Program{Spec: s, About: about, folders: r.folders}
}

// ownRun is where init has shown the guest's state and its secrets.
const ownRun = "/run/cocoroot"

// user looks the user up, and returns the home.
func (r *resolver) user(name string, s *program.Spec) string {
	u, err := user.GetExecUser(name, &user.ExecUser{Home: "/"}, r.text("etc/passwd"), r.text("etc/group"))
	if err != nil {
		r.fail("its user %.64q: %w", name, err)
		return ""
	}
	number := func(id int) uint32 {
		if id < 0 || id >= math.MaxUint32 {
			r.fail("its user %.64q has the number %d", name, id)
		}
		return uint32(id)
	}
	s.UID, s.GID = number(u.Uid), number(u.Gid)
	for _, g := range u.Sgids {
		s.Groups = append(s.Groups, number(g))
	}
	return cmp.Or(u.Home, "/")
}

// text returns a file of the image, or nothing where it has none.
func (r *resolver) text(name string) io.Reader {
	var text []byte
	n, _, err := r.root.Find(name, true)
	if err == nil && n.Mode.IsRegular() {
		text, err = n.Data()
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.fail("%w", err)
	}
	return bytes.NewReader(text)
}

// folder wants a folder that a program may write to.
func (r *resolver) folder(what, name string) {
	for _, taken := range []string{"/dev", "/proc", "/sys", ownRun, program.Folder} {
		if name == taken || strings.HasPrefix(name, taken+"/") {
			r.fail("its %s %.80q is where the guest has its own files", what, name)
		}
	}
	r.want(name)
}

// want notes a folder that is missing.
func (r *resolver) want(name string) {
	n, _, err := r.root.Find(name, true)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		r.folders = append(r.folders, name)
	case err != nil:
		r.fail("%w", err)
	case !n.Mode.IsDir():
		r.fail("%.80q is not a folder", name)
	}
}

// executable returns the path of what is started, as execvp(3) would find it.
func (r *resolver) executable(s program.Spec) string {
	if len(s.Args) == 0 || s.Args[0] == "" {
		r.fail("it names no program")
		return ""
	}
	name := s.Args[0]
	if strings.Contains(name, "/") {
		if !path.IsAbs(name) {
			name = path.Join(s.Dir, name)
		}
		name = path.Clean(name)
		if err := audit.CheckProgram(r.root, name); err != nil {
			r.fail("its program %.80q: %w", name, err)
		}
		return name
	}
	var err error
	i := slices.IndexFunc(s.Env, func(v string) bool { return strings.HasPrefix(v, "PATH=") })
	for dir := range strings.SplitSeq(strings.TrimPrefix(s.Env[i], "PATH="), ":") {
		found := path.Join(dir, name)
		if !path.IsAbs(dir) {
			found = path.Join(s.Dir, dir, name)
		}
		if n, _, e := r.root.Find(found, true); e == nil && n.Mode.IsRegular() {
			if err = audit.CheckProgram(r.root, found); err == nil {
				return found
			}
		}
	}
	if err == nil {
		err = errors.New("it is in no folder of the PATH")
	}
	r.fail("its program %.80q: %w", name, err)
	return ""
}
