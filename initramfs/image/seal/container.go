package seal

import (
	"errors"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/image/container"
	"cocoroot/initramfs/image/fsimage"
	"cocoroot/unlock/policy"
	"cocoroot/unlock/program"
)

// Container says how the program of a container image is started.
type Container struct {
	container.Options
	// First returns cmds/run, which is put into the image.
	First   func() ([]byte, error)
	given   bool // the options are for a container image
	unnamed bool // the image says of no program that it is to be started
}

// checkContainer refuses what no container image can have. given is Check's.
func (o *Options) checkContainer(given func(string) bool) error {
	for _, name := range []string{"network", "stop-timeout", "secret-file", "secret-env"} {
		o.Container.given = o.Container.given || given(name)
	}
	o.Container.given = o.Container.given || len(o.Container.Args) > 0
	if o.Container.given && o.Init != "" {
		return fault.Usagef("--init starts the program itself, without what the container image says; the options for that exclude it")
	}
	return nil
}

// container puts over an image what starts its program, unless the owner names
// another first process.
func (o *Options) container(root *fsimage.Node, c v1.ImageConfig) ([]byte, error) {
	o.Container.unnamed = !container.Names(c)
	if o.Init != "" || o.Container.unnamed && !o.Container.given {
		return nil, nil
	}
	if len(o.Credentials) > 0 {
		return nil, fault.New(fault.Usage, errors.New("--credentials is for an image with systemd, and this one starts its program without"),
			"--secret-file gives a container image's program an entry; with a systemd in it, name that: --init PROGRAM")
	}
	if o.Release.Channel == (policy.Channel{Kind: policy.Serial, Name: program.Line}) {
		return nil, fault.Usagef("--channel %s is the port by which a container image's program is stopped", o.Release.Channel)
	}
	p, err := container.Resolve(root, c, o.Container.Options)
	if errors.Is(err, container.ErrConfig) {
		return nil, fault.Hintf(err, "change the image; or start a program of it as it is: --init PROGRAM")
	}
	if err != nil {
		return nil, err
	}
	first, err := o.Container.First()
	if err != nil {
		return nil, err
	}
	o.Init = program.Path
	o.program = &p.About
	return p.Layer(first)
}
