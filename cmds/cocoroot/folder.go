package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/files"
	"cocoroot/initramfs/image/cmdline"
	"cocoroot/initramfs/image/manifest"
	"cocoroot/initramfs/launch"
	"cocoroot/initramfs/release"
	"cocoroot/initramfs/vm"
	"cocoroot/unlock/policy"
)

// takeFolders gives the commands that work with a guest's folder the option for it.
// launch, verify and inspect take it as their argument.
func takeFolders(root *cobra.Command) {
	for _, name := range []string{"secret session", "measure", "template", "release challenge", "release collect", "release verify", "release run", "release inject"} {
		c, _, err := root.Find(strings.Fields(name))
		if err != nil {
			panic(err) // there is no such command
		}
		c.Flags().String("vm", "", "`FOLDER` of the guest that cocoroot create made: the files are there")
	}
}

// openGuest opens a guest's folder; another one is wrong use.
func openGuest(path string) (vm.Folder, error) {
	f, err := vm.Open(path)
	if errors.Is(err, vm.ErrNone) {
		err = fault.Usagef("%w", err)
	}
	return f, err
}

// fillIn gives options that were not given the values that the guest's folder has.
func fillIn(c *cobra.Command, args []string) error {
	flag := c.Flags().Lookup("vm")
	if flag == nil || !flag.Changed {
		return nil
	}
	path := flag.Value.String()
	if c.Name() == "template" { // whose files the host opens
		path, _ = filepath.Abs(path)
	}
	f, err := openGuest(path)
	if err != nil {
		return err
	}
	d := defaults{Folder: f, command: c}
	switch c.CommandPath() {
	case "cocoroot template":
		_, mode, _ := strings.Cut(strings.Join(args, " "), "-")
		err = d.guest(launch.Mode(mode))
	case "cocoroot measure":
		err = d.boots()
		d.set("vcpus", fmt.Sprint(d.VCPUs[0]))
		d.set("vcpu-type", d.VCPUType)
		if len(f.Modes) == 1 {
			d.set("mode", string(f.Modes[0]))
		}
	case "cocoroot secret session":
		d.set("output", f.Own(vm.Session))
		if len(f.Modes) > 0 {
			d.set("policy", fmt.Sprintf("%#x", f.Modes[len(f.Modes)-1].Policy()))
		}
	case "cocoroot release challenge":
		d.set("output", f.Own(vm.Challenge))
	case "cocoroot release collect":
		d.set("output", f.At("report.json"))
		d.socket()
	case "cocoroot release inject":
		d.socket()
	case "cocoroot release verify":
		d.set("output", f.At("release"))
		err = d.release()
	case "cocoroot release run":
		socket := "qmp"
		if d.asks() {
			socket = "channel"
		}
		d.set(socket, f.Own(vm.Socket))
		err = d.release()
	}
	return cmp.Or(err, d.err)
}

// defaults sets options of a command that were not given.
type defaults struct {
	vm.Folder
	command *cobra.Command
	err     error // the first
}

// set sets an option, to several values if it takes them. What the user said stays.
func (d *defaults) set(name string, values ...string) {
	flag := d.command.Flags().Lookup(name)
	if flag == nil || flag.Changed {
		return
	}
	for _, v := range values {
		if v == "" {
			continue
		}
		if err := d.command.Flags().Set(name, v); err != nil && d.err == nil {
			d.err = fmt.Errorf("cannot use %s: %w", d.Path, err)
		}
	}
}

// there returns a path, or "" when nothing is there.
func there(path string) string {
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}

// either returns the path of a file that the owner made after the folder, and the
// host has a copy of.
func (d *defaults) either(name string) string {
	return cmp.Or(there(d.At(name)), there(d.Own(name)))
}

// boots sets what every guest boots from, as the owner's half knows it if that is
// there.
func (d *defaults) boots() error {
	if d.Owned() {
		if err := checkParts(d.Folder); err != nil {
			return err
		}
	}
	d.set("firmware", d.At(vm.Firmware))
	d.set("kernel", d.At(vm.Kernel))
	d.set("initrd", d.At(vm.Initrd))
	d.set("cmdline-file", d.At(vm.Cmdline))
	return nil
}

// checkParts checks what is measured beside the image.
func checkParts(f vm.Folder) error {
	err := f.Check(maxPart)
	if errors.Is(err, vm.ErrChanged) {
		err = fault.New(fault.Tampered, err, "it has changed since cocoroot create; create makes the guest again, from its source")
	}
	return err
}

// asks reports whether the guest asks its owner.
func (d *defaults) asks() bool { return slices.Contains(d.Modes, launch.ModeSNP) }

// socket sets the option for QEMU's socket through which this guest is answered.
func (d *defaults) socket() {
	if d.asks() {
		d.set("challenge", d.either(vm.Challenge))
		d.set("channel", d.At(vm.Run, "owner"))
	} else {
		d.set("qmp", d.At(vm.Run, "qmp"))
	}
}

// guest sets what launch and template have in common.
func (d *defaults) guest(mode launch.Mode) error {
	if mode != "" && !slices.Contains(d.Modes, mode) {
		return fault.New(fault.Usage, fmt.Errorf("%s was not made for mode %s", d.Path, mode), fmt.Sprintf("cocoroot create --mode %s makes one that is", mode))
	}
	if err := d.boots(); err != nil {
		return err
	}
	_, p, err := cmdline.ReadPolicy(d.At(vm.Cmdline))
	if err != nil {
		return err
	}
	image := d.At(vm.Image)
	if p.Disk.Kind == policy.BySerial {
		image += ",serial=" + p.Disk.Name
	}
	d.set("disk", image)
	d.set("memory", fmt.Sprint(d.Memory))
	d.set("vcpus", fmt.Sprint(d.VCPUs[0]))
	var states []string
	for _, disk := range d.Disks {
		if path := d.At(vm.Disks, disk.Name); disk.Scratch {
			d.set("scratch-disk", path)
		} else {
			states = append(states, disk.Name+"="+path)
		}
	}
	d.set("state-disk", states...)
	if mode == "" {
		return nil
	}
	d.set("vcpu-type", d.VCPUType)
	if d.asks() && (p.Release.Channel.Kind == policy.Serial || p.Release.Channel.Kind == policy.Virtio) {
		d.set("channel", d.At(vm.Run, "owner"))
	} else if !d.asks() {
		d.set("qmp-socket", d.At(vm.Run, "qmp"))
		d.set("session-file", d.either(vm.Session+"_session.b64"))
		d.set("dh-cert-file", d.either(vm.Session+"_godh.b64"))
	}
	return nil
}

// launchFolder is the argument of launch: a guest's folder, or none. A simulated
// launch takes the keys too.
func launchFolder(c *cobra.Command, args []string, mode launch.Mode) error {
	if len(args) == 0 {
		return nil
	}
	if len(args) > 1 {
		return fault.Usagef("launch takes one folder of a guest, %.80q is another argument", args[1])
	}
	f, err := openGuest(args[0])
	d := defaults{Folder: f, command: c}
	if err == nil {
		err = d.guest(mode)
	}
	if err != nil {
		return err
	}
	if publish := c.Flags().Lookup("publish"); f.Owned() && publish.Value.String() == besideDisk { // the host's copy may have other ports
		d.err = publish.Value.Set(f.Own(vm.Manifest))
	}
	made, err := d.MakeDisks()
	if err != nil {
		return err
	}
	if mode != "" {
		return cmp.Or(d.err, os.MkdirAll(d.At(vm.Run), 0o700))
	}
	if err := d.keys(); err != nil {
		return err
	}
	d.set("state-create", made...)
	return d.err
}

// keys adds the secrets that are in the folder to those that were given.
func (d *defaults) keys() error {
	if !d.Owned() {
		return nil
	}
	all := map[string]string{"disk": there(d.Own(vm.DiskKey))}
	if slices.ContainsFunc(d.Disks, func(disk vm.Disk) bool { return !disk.Scratch }) { // its key may be of an earlier guest here
		all["state"] = there(d.Own(vm.StateKey))
	}
	more, err := os.ReadDir(d.Own(vm.Secrets))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot read the secrets: %w", err)
	}
	for _, e := range more {
		if _, err := release.ParseEntry(e.Name()); err != nil { // with a = in it, it would name another file
			return fmt.Errorf("cannot use %s: %w", d.Own(vm.Secrets, e.Name()), err)
		}
		all[e.Name()] = d.Own(vm.Secrets, e.Name())
	}
	given := d.command.Flags().Lookup("secret").Value.(pflag.SliceValue).GetSlice()
	for _, entry := range slices.Sorted(maps.Keys(all)) {
		known := slices.ContainsFunc(given, func(pair string) bool { return strings.HasPrefix(pair, entry+"=") })
		if all[entry] == "" || known {
			continue
		}
		if err := d.command.Flags().Set("secret", entry+"="+all[entry]); err != nil {
			return err
		}
	}
	return nil
}

// release sets what the owner expects of the guest, all of it from his half.
func (d *defaults) release() error {
	if !d.Owned() {
		return fault.Usagef("%s has no owner's half, and only the owner releases secrets", d.Path)
	}
	if len(d.Modes) == 0 {
		return fault.New(fault.Usage, fmt.Errorf("%s was made for simulated launches only", d.Path), "cocoroot create --mode sev-snp, or sev-es, makes a guest for SEV hardware")
	}
	text, err := files.Read(d.Own(vm.Manifest), manifest.MaxSize)
	if err != nil {
		return err
	}
	m, err := manifest.Parse(text)
	if err != nil {
		return fmt.Errorf("cannot use %s: %w", d.Own(vm.Manifest), err)
	}
	var digests []string
	for _, digest := range m.Digests {
		digests = append(digests, digest.Digest)
	}
	d.set("digest", digests...)
	if d.asks() {
		d.set("owner", there(d.Own(vm.Owner+".key")))
		d.set("challenge", there(d.Own(vm.Challenge)))
		d.set("certs", there(d.Own(vm.Certs)))
	} else {
		d.set("tik", there(d.Own(vm.Session+"_tik.bin")))
		d.set("tek", there(d.Own(vm.Session+"_tek.bin")))
	}
	if table := d.command.Flags().Lookup("table"); table.Changed {
		return nil
	}
	return d.keys()
}

// verifyFolder checks what is measured beside the image, and returns the image and
// what it has to be, as verify takes them. The owner's half is what is trusted.
func verifyFolder(path string) (image, manifest, key string, err error) {
	f, err := openGuest(path)
	if err != nil {
		return "", "", "", err
	}
	if !f.Owned() {
		return "", "", "", fault.Usagef("%s has no owner's half, and nothing else says what its files have to be", path)
	}
	return f.At(vm.Image), f.Own(vm.Manifest), there(f.Own(vm.DiskKey)), checkParts(f)
}

// isFolder reports whether a path is a folder.
func isFolder(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.IsDir()
}
