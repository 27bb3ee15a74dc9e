package snp

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cocoroot/initramfs/release/snptest"
)

// keyServer is a fake of AMD's, over HTTPS on loopback, that has what one chip
// needs and is too busy at first.
func keyServer(t *testing.T, s *scene, busy int) (*Server, *[]string, *[]time.Duration) {
	var asked []string
	var slept []time.Duration
	o, err := s.ask(t).origin()
	if err != nil {
		t.Fatal(err)
	}
	query := "blSPL=10&teeSPL=00&snpSPL=32&ucodeSPL=84"
	if o.layout == turinLayout {
		query = "fmcSPL=01&" + query
	}
	h := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.String())
		switch r.URL.String() {
		case fmt.Sprintf("/vcek/v1/%s/%x?%s", s.chip.Generation, o.chip, query):
			if busy--; busy >= 0 {
				w.Header().Set("Retry-After", "7")
				w.WriteHeader(http.StatusTooManyRequests)
				return
			}
			w.Write(s.evidence.Key)
		case "/vcek/v1/" + s.chip.Generation + "/crl":
			w.Write(s.chip.CRL())
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(h.Close)
	return &Server{h.URL, h.Client(), func(d time.Duration) <-chan time.Time {
		slept = append(slept, d)
		return time.After(0)
	}, s.expect.Roots}, &asked, &slept
}

// What the key server has is waited for as it asks, kept, and found again.
func TestFetch(t *testing.T) {
	for _, product := range []string{"Genoa-B1", "Turin-B1"} {
		s := newScene(t, product)
		r := s.ask(t)
		dir := filepath.Join(t.TempDir(), "certs")
		if _, err := Find(dir, r); !errors.Is(err, ErrNoCertificate) {
			t.Errorf("Find in no folder: %v; want ErrNoCertificate", err)
		}
		server, asked, slept := keyServer(t, s, 2)
		names, err := server.Fetch(t.Context(), r, dir)
		if err != nil || len(names) != 2 {
			t.Fatalf("%s: Fetch = %v, %v after %v", product, names, err, *asked)
		}
		if len(*slept) != 2 || (*slept)[0] != 7*time.Second {
			t.Errorf("waits %v; want 7s twice", *slept)
		}
		v, err := Find(dir, r)
		if err != nil || !bytes.Equal(v.Key, s.evidence.Key) || len(v.CRLs) != 1 {
			t.Errorf("Find: %v", err)
		}
		if _, err := Verify(s.expect, r, v); err != nil {
			t.Error(err)
		}
		*asked = nil
		if _, err := server.Fetch(t.Context(), r, dir); err != nil || len(*asked) != 1 {
			t.Errorf("asked again for %v, %v; want the list only", *asked, err)
		}
	}
}

func TestFetchFails(t *testing.T) {
	for name, tc := range map[string]struct {
		busy   int
		change func(*scene)
		waits  int
	}{
		"always busy":         {100, func(*scene) {}, 5},
		"another root's key":  {0, func(s *scene) { s.expect.Roots = nil }, 0},
		"another kind of key": {0, func(s *scene) { s.evidence.Key = s.chip.Vlek.Raw }, 0},
		"nothing":             {0, func(s *scene) { s.evidence.Key = nil }, 0},
		"too much":            {0, func(s *scene) { s.evidence.Key = make([]byte, MaxCertificate+1) }, 0},
		"another chip's":      {0, func(s *scene) { s.evidence.Key = snptest.NewChip("Genoa-B1", firmware).Vcek.Raw }, 0},
		"a report of no chip": {0, func(s *scene) { s.raw = func(r []byte) { r[0x189] = 0xff } }, 0},
	} {
		s := newScene(t, "Genoa-B1")
		good := *s
		tc.change(s)
		server, _, slept := keyServer(t, &good, tc.busy)
		server.roots = s.expect.Roots
		good.evidence.Key = s.evidence.Key
		dir := t.TempDir()
		_, err := server.Fetch(t.Context(), s.ask(t), dir)
		left, _ := os.ReadDir(dir)
		if err == nil || len(left) > 0 || len(*slept) != tc.waits {
			t.Errorf("%s: %v, %d files, waits %v; want an error, none, %d", name, err, len(left), *slept, tc.waits)
		}
	}
	s := newScene(t, "Genoa-B1")
	server, _, _ := keyServer(t, s, 1)
	server.after = time.After
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := server.Fetch(ctx, s.ask(t), t.TempDir()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("interrupted while it waits: %v", err)
	}
	server.client = &http.Client{} // does not know the fake's certificate
	if _, err := server.Fetch(t.Context(), s.ask(t), t.TempDir()); err == nil {
		t.Error("a server with a certificate of nobody's is believed")
	} else if _, ok := errors.AsType[x509.UnknownAuthorityError](err); !ok {
		t.Errorf("a server with a certificate of nobody's: %v", err)
	}
}

// The certificate that the guest's host gave is used when there is no other.
func TestFindInTable(t *testing.T) {
	s := newScene(t, "Genoa-B1")
	table, err := s.chip.CertTableBytes()
	if err != nil {
		t.Fatal(err)
	}
	r := s.ask(t)
	r.Aux = table
	v, err := Find("", r)
	if err != nil || !bytes.Equal(v.Key, s.chip.Vcek.Raw) {
		t.Errorf("Find: %v", err)
	}
	if _, err := Verify(s.expect, r, v); err != nil {
		t.Error(err)
	}
}
