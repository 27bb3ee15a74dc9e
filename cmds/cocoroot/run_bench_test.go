package main

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"cocoroot/initramfs/oracle"
)

// BenchmarkRun measures how long nginx takes to answer first, in seconds from the
// command: cocoroot run, beside the same image by the single commands (seal, initrd,
// measure and launch), in turns. It reports the least and the median of each
// (-benchtime 5x: of five).
func BenchmarkRun(b *testing.B) {
	dir := b.TempDir()
	layout, image := filepath.Join(dir, "nginx"), filepath.Join(dir, "image")
	oracle.Layout(b, layout, map[string]any{
		"Cmd": []string{"nginx", "-g", "daemon off;"}, "StopSignal": "SIGQUIT", "ExposedPorts": map[string]any{"80/tcp": struct{}{}},
	}, oracle.Fixture(b, "containers/nginx.tar"))
	tool, port := oracle.Artifact(b, "cocoroot"), fmt.Sprint(freePort(b))
	boots := []string{"--firmware", oracle.Artifact(b, "OVMF.amdsev.fd"), "--kernel", oracle.Artifact(b, "bzImage"), "--initrd", image + ".initrd", "--cmdline-file", image + ".cmdline"}
	line := []string{"--append", "no_timer_check"}
	ways := []struct {
		name     string
		commands [][]string // the last one serves
	}{
		{"run", [][]string{slices.Concat([]string{tool, "run", "--simulate", layout, "--forward", port + ":80"}, line)}},
		{"by-hand", [][]string{
			slices.Concat([]string{tool, "seal", layout, "-o", image, "--force"}, line),
			{tool, "initrd", "-o", image + ".initrd", "--modules", oracle.Artifact(b, "modules"), "--force"},
			slices.Concat([]string{tool, "measure", "--mode", "sev-snp", "--vcpus", "1", "--vcpu-type", "EPYC-Genoa"}, boots),
			slices.Concat([]string{tool, "launch", "--simulate", "--disk", image, "--secret", "disk=" + image + ".key", "--forward", port + ":80"}, boots),
		}},
	}
	took := map[string][]float64{}
	for b.Loop() {
		for _, way := range ways {
			begin := time.Now()
			last := len(way.commands) - 1
			for _, c := range way.commands[:last] {
				oracle.Run(b, c[0], c[1:]...)
			}
			firstAnswer(b, port, way.commands[last], func() { took[way.name] = append(took[way.name], time.Since(begin).Seconds()) })
		}
	}
	b.ReportMetric(0, "ns/op")
	for name, all := range took {
		slices.Sort(all)
		b.ReportMetric(all[0], name+"-least-s")
		b.ReportMetric(all[len(all)/2], name+"-s")
	}
}

// firstAnswer starts what serves a page, and ends it after the first answer. QEMU
// takes connections before the guest does, and they wait: so there are always several.
func firstAnswer(b *testing.B, port string, command []string, answered func()) {
	serve := exec.Command(command[0], command[1:]...)
	if err := serve.Start(); err != nil {
		b.Fatal(err)
	}
	first, ended := make(chan bool), make(chan error, 1)
	go func() { ended <- serve.Wait() }()
	for {
		go func() {
			client := http.Client{Timeout: 20 * time.Second}
			answer, err := client.Get("http://127.0.0.1:" + port)
			if err != nil {
				return
			}
			answer.Body.Close()
			select {
			case first <- true:
			case <-time.After(time.Second): // another was the first
			}
		}()
		select {
		case <-first:
			answered()
			serve.Process.Signal(os.Interrupt)
			<-ended
			return
		case err := <-ended:
			b.Fatalf("%q ended: %v", command, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
