package main

import (
	"encoding/json"
	"testing"

	"cocoroot/initramfs/doctor"
	"cocoroot/initramfs/fault"
)

// A test's own folder has neither firmware nor kernel, so that nothing could be
// launched: the exit code says so, and the findings are printed all the same.
func TestDoctor(t *testing.T) {
	code, out, _ := call(t, "doctor", "--json")
	var r doctor.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != fault.Failed || r.Simulates || len(r.Findings) < 10 {
		t.Errorf("doctor = %d, %v, %+v", code, err, r)
	}
}
