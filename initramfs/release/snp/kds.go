package snp

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-sev-guest/abi"

	"cocoroot/initramfs/files"
)

// MaxCertificate bounds a certificate's or a revocation list's file in bytes.
const MaxCertificate = 64 << 10

// ErrNoCertificate is returned when a report's certificate is nowhere.
var ErrNoCertificate = errors.New("there is no certificate for the report")

// origin is where a report says that it is from.
type origin struct {
	Generation
	chip []byte
	tcb  TCB
	vlek bool
}

// origin reads the report before it is verified, to find its certificate.
func (r Request) origin() (origin, error) {
	report, err := abi.ReportToProto(r.Report)
	if err != nil {
		return origin{}, refusef("form", "the report cannot be read: %w", err)
	}
	g := generationOf(r.Report)
	if report.Version < abi.ReportVersion3 || g.models == nil {
		return origin{}, refusef("generation", "the report is of no processor that is known")
	}
	tcb, err := g.tcb(report.ReportedTcb)
	return origin{g, g.chip(report.ChipId), tcb, report.SignerInfo>>2&7 == 1}, err
}

// keyFile is the name of a VCEK in a folder of certificates.
func (o origin) keyFile() string { return fmt.Sprintf("%s-%x-%x.vcek", o.Name, o.chip, o.tcb[:]) }

// kind is the kind of the key that signed, as the key server calls it.
func (o origin) kind() string { return strings.ToLower(keyKind(o.vlek)) }

// crlFile is the name of the revocation list: AMD has one for each kind of key.
func (o origin) crlFile() string { return o.Name + "-" + o.kind() + ".crl" }

// Find returns what goes with the report: from a folder that Fetch wrote, and
// where that has no certificate, what the guest's host gave it. The folder may be
// "". With ErrNoCertificate, the revocation list of the folder is returned all the
// same, for a certificate from elsewhere.
func Find(dir string, r Request) (Evidence, error) {
	var v Evidence
	o, err := r.origin()
	if err != nil {
		return v, err
	}
	read := func(name string) ([]byte, error) {
		if dir == "" {
			return nil, nil
		}
		b, err := files.Read(filepath.Join(dir, name), MaxCertificate)
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil
		}
		return b, err
	}
	if !o.vlek {
		if v.Key, err = read(o.keyFile()); err != nil {
			return v, err
		}
	}
	if v.Key == nil {
		v.Key = inTable(r.Aux, o.vlek)
	}
	list, err := read(o.crlFile())
	if list != nil {
		v.CRLs = [][]byte{list}
	}
	if err == nil && v.Key == nil {
		err = ErrNoCertificate
	}
	return v, err
}

// The GUIDs of certificates in the table that a host gives to its guests (AMD
// publication 56421, MSG_REPORT_REQ), as bytes in the order of their text.
var tableGUIDs = map[bool]string{
	false: "63da758de6644564adc5f4b93be8accd", // VCEK
	true:  "a8074bc2a25a483eaae639c045a0b8a1", // VLEK
}

// inTable returns the certificate in a table of GUID, u32 offset and u32 length,
// or nil. The host controls every byte of it. (abi.CertTable adds offset and
// length in 32 bits, and does not survive those that overflow.)
func inTable(table []byte, vlek bool) []byte {
	want, _ := hex.DecodeString(tableGUIDs[vlek])
	const entry = 24
	for at := 0; at+entry <= len(table); at += entry {
		offset := uint64(binary.LittleEndian.Uint32(table[at+16:]))
		end := offset + uint64(binary.LittleEndian.Uint32(table[at+20:]))
		switch {
		case bytes.Equal(table[at:at+entry], make([]byte, entry)):
			return nil
		case bytes.Equal(table[at:at+16], want) && offset < end && end <= uint64(len(table)):
			return table[offset:end]
		}
	}
	return nil
}

// Server is AMD's key server (AMD publication 57230).
type Server struct {
	base   string
	client *http.Client
	after  func(time.Duration) <-chan time.Time
	roots  Roots // of tests; nil is AMD's
}

// KDS returns the one at kdsintf.amd.com.
func KDS() *Server {
	return &Server{base: "https://kdsintf.amd.com", client: &http.Client{Timeout: 30 * time.Second}, after: time.After}
}

// Fetch gets the certificate that a report needs, and the revocation list, and
// writes them into a folder for Find. A certificate that is there is not asked
// for again; a list always is. It returns the names of the files.
func (s *Server) Fetch(ctx context.Context, r Request, dir string) ([]string, error) {
	o, err := r.origin()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("cannot keep certificates: %w", err)
	}
	keep := func(what, name, from string, check func([]byte) error) error {
		b, err := s.get(ctx, from)
		if err != nil {
			return fmt.Errorf("cannot get the %s: %w", what, err)
		}
		if err := check(b); err != nil {
			return fmt.Errorf("cannot use the %s that the key server gave: %w", what, err)
		}
		return files.Write(true, files.Public(name, b))
	}
	key, list := filepath.Join(dir, o.keyFile()), filepath.Join(dir, o.crlFile())
	var all []string
	if !o.vlek { // AMD gives a VLEK only to the cloud that it is for
		if _, err = os.Stat(key); err != nil {
			err = keep("VCEK", key, fmt.Sprintf("/vcek/v1/%s/%x?%s", o.Name, o.chip, o.query()), func(b []byte) error { return s.check(o, b) })
		}
		if err != nil {
			return nil, err
		}
		all = append(all, key)
	}
	err = keep("revocation list", list, fmt.Sprintf("/%s/v1/%s/crl", o.kind(), o.Name), func(b []byte) error {
		ark, ask, err := s.roots.of(o.Generation, o.vlek)
		if err != nil {
			return err
		}
		return checkCRL(b, ark, ask, time.Now())
	})
	if err != nil {
		return all, err
	}
	return append(all, list), nil
}

// check checks that a VCEK is the one of the report, before it is kept.
func (s *Server) check(o origin, cert []byte) error {
	key, err := o.verifyKey(cert, false, s.roots, time.Now())
	if err == nil && (!bytes.Equal(key.chip, o.chip) || key.tcb != o.tcb) {
		err = errors.New("it is of another chip, or of other firmware")
	}
	return err
}

// query is a TCB as the key server takes it.
func (o origin) query() string {
	var words []string
	for i, p := range parts {
		if o.layout[i] >= 0 {
			words = append(words, fmt.Sprintf("%s=%02d", p.kds, o.tcb[i]))
		}
	}
	return strings.Join(words, "&")
}

// get asks until the server answers: when it is asked too often, it says 429, and
// how many seconds to wait.
func (s *Server) get(ctx context.Context, path string) ([]byte, error) {
	const tries, usual, longest = 6, 10, 120 // the waits in seconds
	for try := 1; ; try++ {
		q, err := http.NewRequestWithContext(ctx, http.MethodGet, s.base+path, nil)
		if err != nil {
			return nil, err
		}
		answer, err := s.client.Do(q)
		if err != nil {
			return nil, err
		}
		b, err := io.ReadAll(io.LimitReader(answer.Body, MaxCertificate+1))
		answer.Body.Close()
		busy := answer.StatusCode == http.StatusTooManyRequests || answer.StatusCode == http.StatusServiceUnavailable
		switch {
		case err != nil:
			return nil, err
		case len(b) > MaxCertificate:
			return nil, fmt.Errorf("%s answers with more than %d bytes", s.base, MaxCertificate)
		case answer.StatusCode == http.StatusOK:
			return b, nil
		case !busy || try == tries:
			return nil, fmt.Errorf("%s answers %s", s.base, answer.Status)
		}
		wait, err := strconv.Atoi(answer.Header.Get("Retry-After"))
		if err != nil || wait < 1 {
			wait = usual
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-s.after(time.Duration(min(wait, longest)) * time.Second):
		}
	}
}
