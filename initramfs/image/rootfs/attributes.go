package rootfs

import (
	"archive/tar"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
)

// Linux's bounds of extended attributes, in bytes (include/uapi/linux/limits.h).
const (
	maxAttrName  = 255
	maxAttrValue = 65536
	maxAttrList  = 65536 // all names of a file, each with a NUL
)

// metadata is what squashfs keeps of an entry's extended attributes, and what
// not.
type metadata struct {
	kept    map[string]string // records of the tar that is written
	dropped []string          // names, and what that comes to
	mask    int64             // of the mode: what an ACL that is dropped does not give to all
}

// harmless are pax records that say nothing of a file which is not in the rest
// of its header (pax(1); GNU tar's, star's and libarchive's manuals).
var harmless = []string{
	"path", "linkpath", "size", "uid", "gid", "uname", "gname", "mtime", "atime", "ctime", "charset", "hdrcharset", "comment",
	"GNU.sparse.*", "SCHILY.dev", "SCHILY.ino", "SCHILY.nlink", "SCHILY.devmajor", "SCHILY.devminor", "SCHILY.realsize",
	"LIBARCHIVE.creationtime", "LIBARCHIVE.symlinktype",
}

func isHarmless(key string) bool {
	return slices.ContainsFunc(harmless, func(h string) bool {
		prefix, star := strings.CutSuffix(h, "*")
		return key == h || star && strings.HasPrefix(key, prefix)
	})
}

// metadataOf reads an entry's pax records, whose writers have different names
// for one thing.
func metadataOf(h *tar.Header) (metadata, error) {
	m := metadata{mask: 0o7777}
	list := 0
	for _, key := range slices.Sorted(maps.Keys(h.PAXRecords)) {
		name, value := key, h.PAXRecords[key]
		switch {
		case strings.HasPrefix(key, "SCHILY.xattr."):
			name = strings.TrimPrefix(key, "SCHILY.xattr.")
		case strings.HasPrefix(key, "LIBARCHIVE.xattr."): // the name as in a URL, the value in base64
			unescaped, err := url.PathUnescape(strings.TrimPrefix(key, "LIBARCHIVE.xattr."))
			if err != nil {
				return m, fmt.Errorf("%w: %.80q has the malformed record %.80q", ErrTar, h.Name, key)
			}
			if _, twice := h.PAXRecords["SCHILY.xattr."+unescaped]; twice {
				continue
			}
			decoded, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "="))
			if err != nil {
				return m, fmt.Errorf("%w: %.80q has the malformed record %.80q", ErrTar, h.Name, key)
			}
			name, value = unescaped, string(decoded)
		case key == "RHT.security.selinux": // GNU tar's
			name, value = "security.selinux", value+"\x00"
		case key == "SCHILY.acl.access":
			m.drop(key)
			m.mask &= aclMask(textACL(value))
			continue
		case isHarmless(key):
			continue
		default:
			m.drop(key)
			continue
		}
		list += len(name) + 1
		if name == "" || len(name) > maxAttrName || len(value) > maxAttrValue || list > maxAttrList || strings.Contains(name, "\x00") {
			return m, fmt.Errorf("%w: %.80q has an extended attribute that Linux does not have room for: %.80q with %d bytes", ErrTar, h.Name, name, len(value))
		}
		switch prefix, _, _ := strings.Cut(name, "."); {
		case prefix == "user" || prefix == "trusted" || prefix == "security":
			if m.kept == nil {
				m.kept = map[string]string{}
			}
			m.kept["SCHILY.xattr."+name] = value
		case name == accessACL:
			m.drop(name)
			m.mask &= aclMask(binaryACL(value))
		default:
			m.drop(name)
		}
	}
	return m, nil
}

func (m *metadata) drop(name string) { m.dropped = append(m.dropped, name) }

// The extended attributes in which Linux keeps POSIX ACLs.
const (
	accessACL  = "system.posix_acl_access"
	defaultACL = "system.posix_acl_default"
)

// aclEntry is one line of an ACL.
type aclEntry struct {
	tag   string // user, group, mask or other
	named bool   // it is about one user or one group
	perm  int64
}

// aclMask returns which bits of a mode stay when an ACL goes, so that nobody
// gets more than it gave: the group's bits are the ACL's mask, and a named user
// who may do less than others would be one of them. An ACL that is malformed, nil,
// leaves the owner's bits.
func aclMask(acl []aclEntry) int64 {
	if acl == nil {
		return 0o7700
	}
	mask, group, other := int64(7), int64(7), int64(7)
	for _, e := range acl {
		if e.tag == "mask" {
			mask = e.perm
		}
	}
	for _, e := range acl {
		switch {
		case e.named:
			other &= e.perm & mask
			if e.tag == "user" {
				group &= e.perm & mask
			}
		case e.tag == "group":
			group &= e.perm & mask
		}
	}
	return 0o7700 | group<<3 | other
}

// binaryACL reads what Linux has in an extended attribute (little endian;
// include/uapi/linux/posix_acl_xattr.h, version 2).
func binaryACL(value string) []aclEntry {
	le, b := binary.LittleEndian, []byte(value)
	if len(b) < 4 || le.Uint32(b) != 2 || len(b)%8 != 4 {
		return nil
	}
	tags := map[uint16]aclEntry{1: {tag: "user"}, 2: {tag: "user", named: true}, 4: {tag: "group"}, 8: {tag: "group", named: true}, 16: {tag: "mask"}, 32: {tag: "other"}}
	acl := []aclEntry{}
	for b = b[4:]; len(b) > 0; b = b[8:] {
		e, ok := tags[le.Uint16(b)]
		if !ok {
			return nil
		}
		e.perm = int64(le.Uint16(b[2:]) & 7)
		acl = append(acl, e)
	}
	return acl
}

// textACL reads an ACL as acl(5) has its text, with commas or line breaks
// between entries, which may end with an ID.
func textACL(text string) []aclEntry {
	acl := []aclEntry{}
	for _, l := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == '\n' }) {
		f := strings.Split(strings.TrimSpace(l), ":")
		if len(f) < 3 || len(f[2]) < 3 {
			return nil
		}
		e := aclEntry{tag: f[0], named: f[1] != ""}
		for i, c := range "rwx" {
			switch f[2][i] {
			case byte(c):
				e.perm |= 4 >> i
			case '-':
			default:
				return nil
			}
		}
		acl = append(acl, e)
	}
	return acl
}

// notes collects what is to be said of a source, by kinds.
type notes struct {
	order []string
	seen  map[string]*note
}

type note struct {
	example string
	count   int
}

// maxNotes bounds the kinds: the tar's maker chooses the names.
const maxNotes = 16

func (n *notes) add(kind, example string) {
	if n.seen == nil {
		n.seen = map[string]*note{}
	}
	if len(n.order) == maxNotes && n.seen[kind] == nil {
		kind = "more metadata"
	}
	if n.seen[kind] == nil {
		n.order = append(n.order, kind)
		n.seen[kind] = &note{example: example}
	}
	n.seen[kind].count++
}

// texts returns a warning for each kind.
func (n *notes) texts() []string {
	var out []string
	for _, kind := range n.order {
		e := n.seen[kind]
		what := "it is dropped"
		if kind == accessACL || kind == "SCHILY.acl.access" {
			what = "the ACL is dropped, and so are the mode's bits that it limited"
		}
		out = append(out, fmt.Sprintf("squashfs cannot keep %.80q of %.80q (and of %d more): %s", kind, e.example, e.count-1, what))
	}
	return out
}
