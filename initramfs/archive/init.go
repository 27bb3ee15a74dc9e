package archive

import (
	"bytes"
	"debug/buildinfo"
	"debug/elf"
	"fmt"
	"slices"
	"strings"
)

// initPackage is the main package of the init that an archive carries.
const initPackage = "cocoroot/cmds/init"

// checkInit sees that the file is our init, runs without a loader and without
// libraries, and clears the key from its own memory.
func checkInit(file []byte) error {
	f, err := elf.NewFile(bytes.NewReader(file))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInit, err)
	}
	if f.Machine != elf.EM_X86_64 {
		return fmt.Errorf("%w: it is built for %s", ErrInit, f.Machine)
	}
	if slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		return fmt.Errorf("%w: it is not static; build it with CGO_ENABLED=0", ErrInit)
	}
	info, err := buildinfo.Read(bytes.NewReader(file))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInit, err)
	}
	if info.Path != initPackage {
		return fmt.Errorf("%w: it is %.128q", ErrInit, info.Path)
	}
	for _, s := range info.Settings {
		if s.Key == "GOEXPERIMENT" && slices.Contains(strings.Split(s.Value, ","), "runtimesecret") {
			return nil
		}
	}
	return fmt.Errorf("%w: it was built without GOEXPERIMENT=runtimesecret and would leave key copies in memory", ErrInit)
}
