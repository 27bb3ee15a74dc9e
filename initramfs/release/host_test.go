package release

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"cocoroot/initramfs/launch/qmp"
	"cocoroot/initramfs/release/packet"
	"cocoroot/initramfs/release/psptest"
	"cocoroot/initramfs/release/session"
)

// dial connects to a simulated QEMU.
func dial(t *testing.T, q *psptest.QEMU) *qmp.Client {
	t.Helper()
	c, err := qmp.Dial(t.Context(), q.Serve(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// guest is one in a state.
func guest(state string) *psptest.Guest {
	g := psptest.NewGuest(make([]byte, 16), make([]byte, 16), 7, [32]byte{1})
	g.State = state
	return g
}

// say answers one command with fixed text.
func say(command string, f func(uint64) string) map[string]func(uint64) string {
	return map[string]func(uint64) string{command: f}
}

func text(s string) func(uint64) string { return func(uint64) string { return s } }

const (
	measure = "query-sev-launch-measure"
	ready   = "launch-secret"
)

// Whatever state the guest is in, and whatever is between the tool and QEMU,
// has its own error, and nothing is injected.
func TestCollect(t *testing.T) {
	m := guest(ready).Measure()
	for name, tc := range map[string]struct {
		q    *psptest.QEMU
		want error
	}{
		"SEV":                    {&psptest.QEMU{Guest: guest(ready), Type: "sev"}, nil},
		"QEMU before 9.1":        {&psptest.QEMU{Guest: guest(ready)}, nil},
		"events":                 {&psptest.QEMU{Guest: guest(ready), Noise: strings.Repeat(`{"event": "NICE"}`+"\n", 50)}, nil},
		"no SEV":                 {&psptest.QEMU{}, ErrNoSEV},
		"QEMU without SEV":       {&psptest.QEMU{Answer: say("query-sev", psptest.Refusal("The command query-sev has not been found"))}, ErrNoSEV},
		"another kind":           {&psptest.QEMU{Guest: guest(ready), Type: "tdx"}, ErrNoSEV},
		"SNP":                    {&psptest.QEMU{Guest: guest("running"), Type: "sev-snp"}, ErrSNP},
		"not set up":             {&psptest.QEMU{Guest: guest("uninit")}, ErrEarly},
		"not measured":           {&psptest.QEMU{Guest: guest("launch-update")}, ErrEarly},
		"running":                {&psptest.QEMU{Guest: guest("running")}, ErrLate},
		"being sent":             {&psptest.QEMU{Guest: guest("send-update")}, ErrLate},
		"state unknown":          {&psptest.QEMU{Guest: guest("new")}, ErrLate},
		"measure refused":        {&psptest.QEMU{Guest: guest(ready), Answer: say(measure, psptest.Refusal("x"))}, new(qmp.Error)},
		"short measurement":      {&psptest.QEMU{Guest: guest(ready), Answer: say(measure, psptest.Return(`{"data": "AAAA"}`))}, session.ErrMeasurement},
		"no measurement":         {&psptest.QEMU{Guest: guest(ready), Answer: say(measure, psptest.Return(`{}`))}, session.ErrMeasurement},
		"measurement, a number":  {&psptest.QEMU{Guest: guest(ready), Answer: say(measure, psptest.Return(`{"data": 7}`))}, qmp.ErrProtocol},
		"version out of range":   {&psptest.QEMU{Answer: say("query-sev", psptest.Return(`{"enabled": true, "build-id": 256}`))}, qmp.ErrProtocol},
		"answer to another":      {&psptest.QEMU{Guest: guest(ready), Answer: say(measure, text(`{"return": {}, "id": 99}`+"\n"))}, qmp.ErrProtocol},
		"half an answer":         {&psptest.QEMU{Guest: guest(ready), Answer: say(measure, text(`{"return": {"da`))}, qmp.ErrClosed},
		"hung up":                {&psptest.QEMU{Guest: guest(ready), Answer: say("query-sev", text(` `))}, qmp.ErrClosed},
		"silence":                {&psptest.QEMU{Guest: guest(ready), Answer: say("query-sev", text(""))}, context.DeadlineExceeded},
		"silence at the measure": {&psptest.QEMU{Guest: guest(ready), Answer: say(measure, text(""))}, context.DeadlineExceeded},
	} {
		wait := 10 * time.Second
		if tc.want == context.DeadlineExceeded {
			wait = 200 * time.Millisecond
		}
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		r, err := Collect(ctx, dial(t, tc.q))
		cancel()
		var refused *qmp.Error
		if _, any := tc.want.(*qmp.Error); any {
			if !errors.As(err, &refused) {
				t.Errorf("%s: Collect error = %v; want QEMU's refusal", name, err)
			}
			continue
		}
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: Collect error = %v; want %v", name, err, tc.want)
		}
		if err == nil && (r.Policy != 7 || r.API() != session.API{Major: 1, Minor: 55, Build: 21} || len(m) != 48 || r.Measurement == session.Measurement{}) {
			t.Errorf("%s: Collect = %+v", name, r)
		}
		if err != nil && r != (Report{}) {
			t.Errorf("%s: Collect = %+v beside an error", name, r)
		}
	}
}

func TestInject(t *testing.T) {
	const inject = "sev-inject-launch-secret"
	keys, err := session.NewKeys()
	if err != nil {
		t.Fatal(err)
	}
	defer keys.Close()
	for name, tc := range map[string]struct {
		answer map[string]func(uint64) string
		change func(*psptest.Guest, *packet.Packet)
		want   error
		sent   bool
	}{
		"good":            {sent: true},
		"payload changed": {change: func(_ *psptest.Guest, p *packet.Packet) { p.Payload[5]++ }, want: ErrRefused, sent: true},
		"MAC changed":     {change: func(_ *psptest.Guest, p *packet.Packet) { p.Header.MAC[0]++ }, want: ErrRefused, sent: true},
		"IV changed":      {change: func(_ *psptest.Guest, p *packet.Packet) { p.Header.IV[0]++ }, want: ErrRefused, sent: true},
		"another launch":  {change: func(g *psptest.Guest, _ *packet.Packet) { *g = *g.Relaunch() }, want: ErrOtherLaunch},
		"running":         {change: func(g *psptest.Guest, _ *packet.Packet) { g.State = "running" }, want: ErrLate},
		"no secret area":  {answer: say(inject, psptest.Refusal("SEV: no secret area found in OVMF, gpa must be specified.")), want: ErrRefused, sent: true},
		"no answer":       {answer: say(inject, text("")), want: ErrUnknown, sent: true},
		"half an answer":  {answer: say(inject, text(`{"retu`)), want: ErrUnknown, sent: true},
	} {
		g := psptest.NewGuest(keys.TIK.Bytes(), keys.TEK.Bytes(), 7, [32]byte{1})
		m := session.Measurement{MAC: [32]byte(g.Measure()), Nonce: [16]byte(g.Measure()[32:])}
		p, err := packet.Seal(keys, []byte("sixteen bytes of"), m)
		if err != nil {
			t.Fatal(err)
		}
		if tc.change != nil {
			tc.change(g, &p)
		}
		q := &psptest.QEMU{Guest: g, Answer: tc.answer}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if tc.want == ErrUnknown {
			cancel()
			ctx, cancel = context.WithTimeout(t.Context(), 300*time.Millisecond)
		}
		err = Inject(ctx, dial(t, q), p, m)
		cancel()
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: Inject error = %v; want %v", name, err, tc.want)
		}
		if sent := strings.Contains(q.Commands(), inject); sent != tc.sent {
			t.Errorf("%s: commands %s; want the secret sent: %v", name, q.Commands(), tc.sent)
		}
		if got := string(g.Table); (got == "sixteen bytes of") != (tc.want == nil) {
			t.Errorf("%s: the guest has %q", name, got)
		}
		if q.Running() {
			t.Errorf("%s: the guest was started", name)
		}
	}
}

func TestQueryPlatform(t *testing.T) {
	got, err := QueryPlatform(t.Context(), dial(t, &psptest.QEMU{PDH: []byte("pdh"), Chain: []byte("chain")}))
	if err != nil || string(got.PDH) != "pdh" || string(got.Chain) != "chain" || len(got.CPU0ID) != 3 {
		t.Errorf("QueryPlatform = %d, %d, %x bytes, %v", len(got.PDH), len(got.Chain), got.CPU0ID, err)
	}
	if _, err := QueryPlatform(t.Context(), dial(t, &psptest.QEMU{})); !errors.Is(err, ErrNoSEV) {
		t.Errorf("QueryPlatform without SEV: %v; want ErrNoSEV", err)
	}
}
