// Package release is the protocol by which a measured guest asks its owner for
// its secrets, on platforms that inject none (SEV-SNP). README.md specifies it
// byte by byte; initramfs/release/snp is the owner's side.
//
// Whoever carries the bytes is the attacker. The guest proves what it is by the
// processor's report over its fresh public key; the owner proves who he is by a
// signature with the key that the measured command line names, which is checked
// before anything else of the answer is looked at. Nothing here hides that a
// guest asks, how long the table is, or keeps the host from not answering.
package release

import (
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// Protocol is the name and version of the protocol, a part of everything that is
// hashed or signed.
const Protocol = "cocoroot-release-1"

// Report is the size of an SEV-SNP attestation report in bytes (SEV-SNP firmware
// ABI, AMD publication 56860, table ATTESTATION_REPORT).
const Report = 1184

// Bounds of a Request's parts in bytes.
const (
	publicSize = 1216     // of MLKEM768X25519: 1184 and 32
	encSize    = 1120     // of its encapsulated key: 1088 and 32
	tagSize    = 16       // of AES-256-GCM
	maxAux     = 16 << 10 // what the kernel gives of certificates
)

// Suite names the algorithms, as HPKE numbers them (RFC 9180, 7; the KEM is
// draft-ietf-hpke-pq's): MLKEM768X25519, HKDF-SHA256, AES-256-GCM, u16 each. It
// is never negotiated.
func Suite() []byte {
	b := binary.LittleEndian.AppendUint16(nil, hpke.MLKEM768X25519().ID())
	b = binary.LittleEndian.AppendUint16(b, hpke.HKDFSHA256().ID())
	return binary.LittleEndian.AppendUint16(b, hpke.AES256GCM().ID())
}

// Request is what a guest asks with. None of it is secret.
type Request struct {
	Challenge [ChallengeSize]byte // the owner's, which makes the report fresh
	Public    []byte              // the guest's key, made for this one boot
	Report    []byte              // of the processor, over ReportData
	Aux       []byte              // certificates from the host, most often none
}

// field appends L(x): the length as a little-endian u32, and the bytes.
func field(dst, x []byte) []byte {
	return append(binary.LittleEndian.AppendUint32(dst, uint32(len(x))), x...)
}

// ReportData returns what a request's report has to be over: SHA-512 of a
// label, the challenge, the suite, the guest's public key and the owner's.
func (r Request) ReportData(owner ed25519.PublicKey) [HashSize]byte {
	b := field(nil, []byte(Protocol+" report data"))
	for _, x := range [][]byte{r.Challenge[:], Suite(), r.Public, owner} {
		b = field(b, x)
	}
	return sha512.Sum512(b)
}

// Encode returns the body of the request's frame.
func (r Request) Encode() []byte {
	var b []byte
	for _, x := range [][]byte{r.Challenge[:], Suite(), r.Public, r.Report, r.Aux} {
		b = field(b, x)
	}
	return b
}

// Transcript returns T, which binds an answer to one request: SHA-512 of the
// request's body as a field.
func Transcript(body []byte) [HashSize]byte { return sha512.Sum512(field(nil, body)) }

// Info returns the HPKE info of an answer to the request with this transcript.
func Info(t [HashSize]byte) []byte { return slices.Concat([]byte(Protocol), t[:]) }

// Signed returns what the owner signs: a label, the transcript, and the answer
// without its signature.
func Signed(t [HashSize]byte, sealed []byte) []byte {
	return slices.Concat([]byte(Protocol+" answer"), t[:], sealed)
}

// errAnswer is returned for an answer that is not the owner's to this request.
var errAnswer = errors.New("the answer is not the owner's to this request")

// open returns the table in an answer to the request with this transcript, and
// the confirmation that it was opened. The signature is checked first.
func open(owner ed25519.PublicKey, key hpke.PrivateKey, t [HashSize]byte, answer []byte) (table, confirm []byte, err error) {
	if len(answer) < ed25519.SignatureSize+encSize+tagSize {
		return nil, nil, fmt.Errorf("%w: it has %d bytes", errAnswer, len(answer))
	}
	sig, sealed := answer[:ed25519.SignatureSize], answer[ed25519.SignatureSize:]
	if !ed25519.Verify(owner, Signed(t, sealed), sig) {
		return nil, nil, fmt.Errorf("%w: the signature is wrong", errAnswer)
	}
	r, err := hpke.NewRecipient(sealed[:encSize], key, hpke.HKDFSHA256(), hpke.AES256GCM(), Info(t))
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errAnswer, err)
	}
	if table, err = r.Open(nil, sealed[encSize:]); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errAnswer, err)
	}
	if confirm, err = r.Export("done", ConfirmSize); err != nil {
		return nil, nil, err
	}
	return table, confirm, nil
}
