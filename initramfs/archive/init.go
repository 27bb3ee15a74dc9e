package archive

import (
	"bytes"
	"debug/buildinfo"
	"debug/elf"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// The main packages of the inits that an archive carries: one with a shell
// beside it has the debug init, which opens no image, and no other has.
const (
	initPackage  = "cocoroot/cmds/init"
	debugPackage = "cocoroot/cmds/debuginit"
)

// checkStatic checks that the file is a program that runs without a loader and
// without libraries.
func checkStatic(file []byte) error {
	f, err := elf.NewFile(bytes.NewReader(file))
	if err != nil {
		return errors.New("it is not a program (ELF)")
	}
	if f.Machine != elf.EM_X86_64 {
		return fmt.Errorf("it is built for %s", f.Machine)
	}
	if slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		return errors.New("it is not static; build it with CGO_ENABLED=0")
	}
	return nil
}

// Program is what a Go program says of itself.
type Program struct {
	Package       string `json:"package"`        // import path of its main package
	Go            string `json:"go"`             // version of the compiler
	RuntimeSecret bool   `json:"runtime_secret"` // built to clear the key from its own memory
}

// String returns the program as people read it.
func (p Program) String() string {
	if p.RuntimeSecret {
		return fmt.Sprintf("%s, built with %s to clear the key from its own memory", p.Package, p.Go)
	}
	return fmt.Sprintf("%s, built with %s", p.Package, p.Go)
}

func readProgram(file []byte) (Program, error) {
	info, err := buildinfo.Read(bytes.NewReader(file))
	if err != nil {
		return Program{}, err
	}
	p := Program{Package: info.Path, Go: info.GoVersion}
	for _, s := range info.Settings {
		if s.Key == "GOEXPERIMENT" {
			p.RuntimeSecret = slices.Contains(strings.Split(s.Value, ","), "runtimesecret")
		}
	}
	return p, nil
}

// checkInit checks that the file is our init of that package, runs by itself,
// and clears the key from its own memory.
func checkInit(file []byte, mainPackage string) error {
	p, err := checkProgram(file, mainPackage)
	if err == nil && !p.RuntimeSecret {
		err = errors.New("it was built without GOEXPERIMENT=runtimesecret and would leave key copies in memory")
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInit, err)
	}
	return nil
}

// CheckRun checks that the file is cmds/run, and runs by itself.
func CheckRun(file []byte) error {
	_, err := checkProgram(file, "cocoroot/cmds/run")
	return err
}

// checkProgram checks that the file is our program of that package, and runs by
// itself.
func checkProgram(file []byte, mainPackage string) (Program, error) {
	err := checkStatic(file)
	var p Program
	if err == nil {
		p, err = readProgram(file)
	}
	if err == nil && p.Package != mainPackage {
		err = fmt.Errorf("it is %.128q, not %s", p.Package, mainPackage)
	}
	return p, err
}
