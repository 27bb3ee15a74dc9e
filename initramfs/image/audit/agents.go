package audit

import (
	"slices"
)

// agent is a program that does what the host or its metadata say. It is known
// by what starts it: units, generators and scripts, whose names begin so.
type agent struct {
	name     string
	reason   string
	starters []string
	off      func(r *root) bool
}

const (
	metadata   = "it takes users, keys, files and commands from a disk or a network address that the host provides"
	hypervisor = "the hypervisor can have it run commands, read and write files, and set passwords"
	desktop    = "the hypervisor can have it move files and read what is copied"
)

var agents = []agent{
	{name: "cloud-init", reason: metadata, starters: []string{"cloud-init", "cloud-config", "cloud-final"}, off: cloudInitOff},
	{name: "ignition", reason: metadata, starters: []string{"ignition", "coreos-ignition"}},
	{name: "afterburn", reason: metadata, starters: []string{"afterburn", "coreos-metadata"}},
	{name: "qemu-guest-agent", reason: hypervisor, starters: []string{"qemu-guest-agent", "qemu-ga"}},
	{name: "waagent", reason: metadata, starters: []string{"waagent", "walinuxagent", "WALinuxAgent", "azure-linux-agent"}},
	{name: "google-guest-agent", reason: metadata, starters: []string{"google-guest-", "google-startup-scripts", "google-shutdown-scripts", "google-osconfig-agent", "google-compute-engine", "gce-workload-cert-refresh"}},
	{name: "amazon-agents", reason: metadata, starters: []string{"amazon-ssm-agent", "amazon-init", "snap.amazon-ssm-agent", "ec2-instance-connect"}},
	{name: "open-vm-tools", reason: hypervisor, starters: []string{"open-vm-tools", "vmtoolsd", "vmware-tools", "vgauth"}},
	{name: "hyperv-daemons", reason: hypervisor, starters: []string{"hv-kvp", "hv-fcopy", "hv-vss", "hv_kvp", "hv_fcopy", "hv_vss", "hypervkvp", "hypervfcopy", "hypervvss"}},
	{name: "virtualbox-guest", reason: hypervisor, starters: []string{"vboxadd", "vboxservice", "virtualbox-guest-utils"}},
	{name: "xen-guest-agent", reason: hypervisor, starters: []string{"xe-daemon", "xe-linux-distribution", "xen-guest-agent"}},
	{name: "lxd-agent", reason: hypervisor, starters: []string{"lxd-agent"}},
	{name: "incus-agent", reason: hypervisor, starters: []string{"incus-agent"}},
	{name: "kata-agent", reason: hypervisor, starters: []string{"kata-agent", "kata-containers"}},
	{name: "oracle-cloud-agent", reason: metadata, starters: []string{"oracle-cloud-agent", "snap.oracle-cloud-agent"}},
	{name: "droplet-agent", reason: metadata, starters: []string{"droplet-agent", "DropletAgent"}},
	{name: "nm-cloud-setup", reason: metadata, starters: []string{"nm-cloud-setup"}},
	{name: "spice-vdagent", reason: desktop, starters: []string{"spice-vdagent"}},
}

// scriptDirs have scripts and services of other inits than systemd.
var scriptDirs = []string{
	"etc/init.d", "etc/rc.d/init.d",
	"etc/service", "var/service", "service", "etc/runit/runsvdir/default", // runit, daemontools
	"etc/s6-rc/source", "etc/dinit.d",
}

// find returns what starts the agent.
func (a agent) find(r *root) []string {
	if a.off != nil && a.off(r) {
		return nil
	}
	var out []string
	look := func(dirs []string, starts func(p, name string) bool) {
		for _, dir := range dirs {
			for _, name := range r.list(dir) {
				if begins(name, a.starters...) && starts(dir+"/"+name, name) {
					out = append(out, show(dir+"/"+name))
				}
			}
		}
	}
	look(unitDirs, func(p, name string) bool { return isUnit(name) && r.unit(name) == p && !r.masked(name) })
	look(generatorDirs, func(p, name string) bool { return r.generator(name) == p })
	look(scriptDirs, func(_, name string) bool {
		// systemd takes a unit in place of a script, a masked one too.
		return !(r.systemd && (r.unit(name+".service") != "" || r.masked(name+".service")))
	})
	return slices.Compact(out)
}

// cloudInitOff goes by the two ways that cloud-init's manual has to switch it
// off ("How to disable cloud-init"), which its generator looks for.
func cloudInitOff(r *root) bool {
	return r.systemd && (r.exists("etc/cloud/cloud-init.disabled") || slices.Contains(r.words, "cloud-init=disabled"))
}
