// Package templates has the descriptions with which libvirt launches a guest,
// for text/template, and the recipes of kernel and images beside them. It is
// data: what a field means, and how it is quoted, stands in initramfs/launch.
package templates

import "embed"

//go:embed launch
var launch embed.FS

// Launch returns the files, in the folder launch.
func Launch() embed.FS { return launch }
