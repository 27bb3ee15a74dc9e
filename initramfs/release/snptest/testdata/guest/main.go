// Command guest is the first process of a test's guest: it loads fake_tsm, asks
// for reports as its command line's last words say, and prints what it gets.
package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const reports = "/sys/kernel/config/tsm/report"

func main() {
	if err := start(); err != nil {
		fmt.Println("guest: cannot start:", err)
	} else {
		for i, word := range os.Args[1:] {
			fmt.Printf("guest: %s: %s\n", word, ask(filepath.Join(reports, strconv.Itoa(i)), word))
		}
	}
	fmt.Println("guest: end")
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func start() error {
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		return err
	}
	if err := unix.Mount("configfs", "/sys/kernel/config", "configfs", 0, ""); err != nil {
		return err
	}
	fmt.Println("guest: without a provider:", os.Mkdir(filepath.Join(reports, "x"), 0o700))
	f, err := os.Open("/fake_tsm.ko")
	if err != nil {
		return err
	}
	return unix.FinitModule(int(f.Fd()), "", 0)
}

// ask asks for one report. word is LENGTH:BYTE or LENGTH:BYTE:PRIVLEVEL.
func ask(dir, word string) string {
	fields := strings.Split(word, ":")
	n, _ := strconv.Atoi(fields[0])
	b, _ := strconv.Atoi(fields[1])
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err.Error()
	}
	if len(fields) > 2 {
		if err := os.WriteFile(filepath.Join(dir, "privlevel"), []byte(fields[2]), 0); err != nil {
			return err.Error()
		}
	}
	input := strings.Repeat(string([]byte{byte(b)}), n)
	if err := os.WriteFile(filepath.Join(dir, "inblob"), []byte(input), 0); err != nil {
		return err.Error()
	}
	report, err := os.ReadFile(filepath.Join(dir, "outblob"))
	if err != nil {
		return err.Error()
	}
	table, err := os.ReadFile(filepath.Join(dir, "auxblob"))
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%s generation %s %s %s", text(dir, "provider"), text(dir, "generation"), sum(report), sum(table))
}

func text(dir, name string) string {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(b))
}

// sum is how the test knows bytes.
func sum(b []byte) string { return fmt.Sprintf("%d/%x", len(b), sha256.Sum256(b)) }
