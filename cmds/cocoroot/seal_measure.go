package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/image/manifest"
)

// launches are the options about what is measured of a sealed image.
type launches struct {
	all                      []string
	firmware, kernel, initrd string
}

func (l *launches) register(c *cobra.Command) {
	flags := c.Flags()
	flags.StringArrayVar(&l.all, "measure", nil, "write the launch digest into the manifest: MODE:VCPUS:TYPE, such as sev-snp:4:EPYC-Milan, or sev; may be repeated")
	flags.StringVar(&l.firmware, "firmware", "", "with --measure: the firmware that launches it")
	flags.StringVar(&l.kernel, "kernel", "", "with --measure: the kernel")
	flags.StringVar(&l.initrd, "initrd", "", "with --measure: the archive that cocoroot initrd wrote")
}

// check refuses what cannot be measured, before the long work of sealing.
func (l *launches) check() error {
	files := map[string]string{"--firmware": l.firmware, "--kernel": l.kernel, "--initrd": l.initrd}
	var lacks []string
	for _, name := range []string{"--firmware", "--kernel", "--initrd"} {
		switch {
		case len(l.all) == 0 && files[name] != "":
			return fault.Usagef("%s is for --measure", name)
		case len(l.all) > 0 && files[name] == "":
			lacks = append(lacks, name)
		}
	}
	if err := missingOptions(lacks...); err != nil {
		return err
	}
	_, err := l.digests("")
	return err
}

// digests measures each launch with a command line, as measure does.
func (l *launches) digests(line string) ([]manifest.Digest, error) {
	var all []manifest.Digest
	for _, text := range l.all {
		mode, cpus, _ := strings.Cut(text, ":")
		count, kind, _ := strings.Cut(cpus, ":")
		options := []string{"mode", mode, "firmware", l.firmware, "kernel", l.kernel, "initrd", l.initrd, "cmdline", line}
		if cpus != "" {
			options = append(options, "vcpus", count, "vcpu-type", kind)
		}
		var digest strings.Builder
		err := also(context.Background(), (&app{stdout: &digest, stderr: io.Discard}).measure(), nil, options...)
		if fault.Code(err) == fault.Usage {
			err = fault.Usagef("--measure: %.80q is not MODE:VCPUS:TYPE: %w", text, err)
		}
		if err != nil {
			return nil, fmt.Errorf("cannot measure %s: %w", text, err)
		}
		n, _ := strconv.Atoi(count)
		all = append(all, manifest.Digest{Mode: mode, VCPUs: n, VCPUType: kind, Digest: strings.TrimSpace(digest.String())})
	}
	return all, nil
}
