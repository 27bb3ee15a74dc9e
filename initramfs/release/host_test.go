package release

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"strings"
	"testing"
	"time"

	"cocoroot/initramfs/launch/qmp"
	"cocoroot/initramfs/release/packet"
	"cocoroot/initramfs/release/session"
)

const (
	querySEV = "query-sev"
	measure  = "query-sev-launch-measure"
	inject   = "sev-inject-launch-secret"
	hungUp   = "hung up" // an answer that ends the connection
)

// qemu is what QEMU answers to each command; without its id, which is added.
// What does not begin an object is sent as it is, with the id for ID. "" is no
// answer.
type qemu map[string]string

// refusal is an answer with an error of QEMU's own wording.
func refusal(desc string) string {
	return fmt.Sprintf(`{"error": {"class": "GenericError", "desc": %q}}`, desc)
}

// in is a guest of SEV in a state.
func in(state string) qemu {
	return qemu{
		querySEV: `{"return": {"enabled": true, "api-major": 1, "api-minor": 55, "build-id": 21, "policy": 7, "handle": 1, "state": "` + state + `"}}`,
		measure:  `{"return": {"data": "` + session.Measurement{Nonce: [16]byte{1}}.String() + `"}}`,
		inject:   `{"return": {}}`,
	}
}

// but is the same with another answer.
func (q qemu) but(command, answer string) qemu {
	q = maps.Clone(q)
	q[command] = answer
	return q
}

// dial connects to it. The commands are what it was asked.
func (q qemu) dial(t *testing.T) (c *qmp.Client, commands func() string) {
	t.Helper()
	ours, theirs := net.Pipe()
	var heard []string
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer theirs.Close()
		io.WriteString(theirs, `{"QMP": {"version": {"qemu": {"micro": 0, "minor": 0, "major": 10}}, "capabilities": ["oob"]}}`+"\n")
		for lines := bufio.NewScanner(theirs); lines.Scan(); {
			var m struct {
				Execute string
				ID      uint64
			}
			if json.Unmarshal(lines.Bytes(), &m) != nil {
				return
			}
			heard = append(heard, m.Execute)
			answer := q[m.Execute]
			if m.Execute == "qmp_capabilities" {
				answer = `{"return": {}}`
			}
			if answer == hungUp {
				return
			}
			if body, ok := strings.CutPrefix(answer, "{"); ok {
				answer = fmt.Sprintf(`{"id": %d, %s`+"\n", m.ID, body)
			}
			io.WriteString(theirs, strings.ReplaceAll(answer, "ID", fmt.Sprint(m.ID)))
		}
	}()
	c, err := qmp.New(t.Context(), ours)
	if err != nil {
		t.Fatal(err)
	}
	return c, func() string {
		c.Close()
		<-ended
		return strings.Join(heard, " ")
	}
}

// Whatever state the guest is in, and whatever is between the tool and QEMU,
// has its own error, and nothing is injected.
func TestCollect(t *testing.T) {
	ready := in("launch-secret")
	typed := func(state, kind string) qemu {
		q := in(state)
		return q.but(querySEV, strings.Replace(q[querySEV], `"enabled"`, `"sev-type": "`+kind+`", "enabled"`, 1))
	}
	for name, tc := range map[string]struct {
		q    qemu
		want error
	}{
		"SEV":                    {typed("launch-secret", "sev"), nil},
		"QEMU before 9.1":        {ready, nil},
		"events":                 {ready.but(measure, " "+strings.Repeat(`{"event": "NICE"}`+"\n", 50)+`{"return": {"data": "`+session.Measurement{Nonce: [16]byte{1}}.String()+`"}, "id": ID}`+"\n"), nil},
		"no SEV":                 {qemu{querySEV: `{"return": {"enabled": false, "state": "uninit"}}`}, ErrNoSEV},
		"QEMU without SEV":       {qemu{querySEV: refusal("The command query-sev has not been found")}, ErrNoSEV},
		"another kind":           {typed("launch-secret", "tdx"), ErrNoSEV},
		"SNP":                    {typed("running", "sev-snp"), errSNP},
		"not set up":             {in("uninit"), errEarly},
		"not measured":           {in("launch-update"), errEarly},
		"running":                {in("running"), errLate},
		"being sent":             {in("send-update"), errLate},
		"state unknown":          {in("new"), errLate},
		"measure refused":        {ready.but(measure, refusal("x")), new(qmp.Error)},
		"short measurement":      {ready.but(measure, `{"return": {"data": "AAAA"}}`), session.ErrMeasurement},
		"no measurement":         {ready.but(measure, `{"return": {}}`), session.ErrMeasurement},
		"measurement, a number":  {ready.but(measure, `{"return": {"data": 7}}`), qmp.ErrProtocol},
		"version out of range":   {qemu{querySEV: `{"return": {"enabled": true, "build-id": 256}}`}, qmp.ErrProtocol},
		"answer to another":      {ready.but(measure, " "+`{"return": {}, "id": 99}`+"\n"), qmp.ErrProtocol},
		"hung up":                {ready.but(querySEV, hungUp), qmp.ErrClosed},
		"silence":                {ready.but(querySEV, ""), context.DeadlineExceeded},
		"silence at the measure": {ready.but(measure, ""), context.DeadlineExceeded},
	} {
		wait := 10 * time.Second
		if tc.want == context.DeadlineExceeded {
			wait = 200 * time.Millisecond
		}
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		c, commands := tc.q.dial(t)
		r, err := Collect(ctx, c)
		cancel()
		if strings.Contains(commands(), inject) {
			t.Errorf("%s: something was injected", name)
		}
		if _, any := tc.want.(*qmp.Error); any {
			if refused, ok := errors.AsType[*qmp.Error](err); !ok {
				t.Errorf("%s: Collect error = %v (%v); want QEMU's refusal", name, err, refused)
			}
			continue
		}
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: Collect error = %v; want %v", name, err, tc.want)
		}
		if err == nil && (r.Policy != 7 || r.API() != session.API{Major: 1, Minor: 55, Build: 21} || r.Measurement.Nonce[0] != 1) {
			t.Errorf("%s: Collect = %+v", name, r)
		}
		if err != nil && r != (Report{}) {
			t.Errorf("%s: Collect = %+v beside an error", name, r)
		}
	}
}

// What a security processor refuses is in the tests of the command line.
func TestInject(t *testing.T) {
	m := session.Measurement{Nonce: [16]byte{1}}
	other := session.Measurement{Nonce: [16]byte{2}}
	ready := in("launch-secret")
	for name, tc := range map[string]struct {
		q    qemu
		m    session.Measurement
		want error
		sent bool
	}{
		"good":           {ready, m, nil, true},
		"refused":        {ready.but(inject, refusal("SEV: failed to inject secret ret=-5 fw_error=11 'x'")), m, errRefused, true},
		"no secret area": {ready.but(inject, refusal("SEV: no secret area found in OVMF, gpa must be specified.")), m, errRefused, true},
		"another launch": {ready, other, errOtherLaunch, false},
		"running":        {in("running"), m, errLate, false},
		"no answer":      {ready.but(inject, ""), m, errUnknown, true},
		"half an answer": {ready.but(inject, ` {"retu`), m, errUnknown, true},
		"hung up":        {ready.but(inject, hungUp), m, errUnknown, true},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if tc.want == errUnknown {
			cancel()
			ctx, cancel = context.WithTimeout(t.Context(), 300*time.Millisecond)
		}
		c, commands := tc.q.dial(t)
		err := Inject(ctx, c, packet.Packet{Secret: make([]byte, 16), Measurement: tc.m})
		cancel()
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: Inject error = %v; want %v", name, err, tc.want)
		}
		heard := commands()
		if sent := strings.Contains(heard, inject); sent != tc.sent {
			t.Errorf("%s: commands %s; want the secret sent: %v", name, heard, tc.sent)
		}
		if strings.Contains(heard, "cont") {
			t.Errorf("%s: the guest was started", name)
		}
	}
}

func TestQueryPlatform(t *testing.T) {
	const command = "query-sev-capabilities"
	c, done := qemu{command: `{"return": {"pdh": "cGRo", "cert-chain": "Y2hhaW4=", "cpu0-id": "AAEC", "cbitpos": 51, "reduced-phys-bits": 1}}`}.dial(t)
	got, err := QueryPlatform(t.Context(), c)
	if err != nil || string(got.PDH) != "pdh" || string(got.Chain) != "chain" || len(got.CPU0ID) != 3 {
		t.Errorf("QueryPlatform = %d, %d, %x bytes, %v", len(got.PDH), len(got.Chain), got.CPU0ID, err)
	}
	done()
	c, done = qemu{command: refusal("KVM not enabled")}.dial(t)
	if _, err := QueryPlatform(t.Context(), c); !errors.Is(err, ErrNoSEV) {
		t.Errorf("QueryPlatform without SEV: %v; want ErrNoSEV", err)
	}
	done()
}
