// Package templates has the script and the description with which QEMU and libvirt
// launch a guest, for text/template, a guest's settings, and the recipes of kernel and images beside them. It is
// data: what a field means, and how it is quoted, stands in initramfs/launch.
package templates

import "embed"

//go:embed launch
var launch embed.FS

//go:embed vm/cocoroot.toml
var settings string

// Settings returns a file of settings for cocoroot create, all of them as comments.
func Settings() string { return settings }

// Launch returns the files, in the folder launch.
func Launch() embed.FS { return launch }
