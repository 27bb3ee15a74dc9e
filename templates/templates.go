// Package templates has the files that cocoroot template fills in: commands
// and descriptions with which QEMU, libvirt and KubeVirt launch a guest, for
// text/template. It is data: what a field means, and how it is quoted, stands
// in cmds/cocoroot.
package templates

import "embed"

//go:embed launch
var launch embed.FS

// Launch returns the files, in the folder launch.
func Launch() embed.FS { return launch }
