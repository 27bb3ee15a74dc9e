package rootfs

import (
	"archive/tar"
	"encoding/base64"
	"fmt"
	"maps"
	"net/url"
	"path"
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
	mask    int64             // of the mode: without its ACL, only the owner's bits say no more than they said
}

// harmless are pax records that say nothing of a file which is not in the rest
// of its header (pax(1); GNU tar's, star's and libarchive's manuals).
var harmless = []string{
	"path", "linkpath", "size", "uid", "gid", "uname", "gname", "mtime", "atime", "ctime", "charset", "hdrcharset", "comment",
	"GNU.sparse.*", "SCHILY.dev", "SCHILY.ino", "SCHILY.nlink", "SCHILY.devmajor", "SCHILY.devminor", "SCHILY.realsize",
	"LIBARCHIVE.creationtime", "LIBARCHIVE.symlinktype",
}

func isHarmless(key string) bool {
	return slices.ContainsFunc(harmless, func(pattern string) bool { is, _ := path.Match(pattern, key); return is })
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
				return m, fmt.Errorf("%w: %.80q has the malformed record %.80q", errTar, h.Name, key)
			}
			if _, twice := h.PAXRecords["SCHILY.xattr."+unescaped]; twice {
				continue
			}
			decoded, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "="))
			if err != nil {
				return m, fmt.Errorf("%w: %.80q has the malformed record %.80q", errTar, h.Name, key)
			}
			name, value = unescaped, string(decoded)
		case key == "RHT.security.selinux": // GNU tar's
			name, value = "security.selinux", value+"\x00"
		case key == "SCHILY.acl.access": // the same as text
			name = accessACL
		case isHarmless(key):
			continue
		default:
			m.dropped = append(m.dropped, key)
			continue
		}
		list += len(name) + 1
		if name == "" || len(name) > maxAttrName || len(value) > maxAttrValue || list > maxAttrList || strings.Contains(name, "\x00") {
			return m, fmt.Errorf("%w: %.80q has an extended attribute that Linux does not have room for: %.80q with %d bytes", errTar, h.Name, name, len(value))
		}
		switch prefix, _, _ := strings.Cut(name, "."); {
		case prefix == "user" || prefix == "trusted" || prefix == "security":
			if m.kept == nil {
				m.kept = map[string]string{}
			}
			m.kept["SCHILY.xattr."+name] = value
		default:
			m.dropped = append(m.dropped, name)
			if name == accessACL {
				m.mask = 0o7700
			}
		}
	}
	return m, nil
}

// The extended attributes in which Linux keeps POSIX ACLs.
const (
	accessACL  = "system.posix_acl_access"
	defaultACL = "system.posix_acl_default"
)

// notes collects what is to be said of a source, by kinds.
type notes map[string]*note

type note struct {
	example string
	count   int
}

// maxNotes bounds the kinds: the tar's maker chooses the names.
const maxNotes = 16

func (n notes) add(kind, example string) {
	if len(n) >= maxNotes && n[kind] == nil {
		kind = "more metadata"
	}
	if n[kind] == nil {
		n[kind] = &note{example: example}
	}
	n[kind].count++
}

func (n notes) texts() []string {
	var out []string
	for _, kind := range slices.Sorted(maps.Keys(n)) {
		what := "it is dropped"
		if kind == accessACL {
			what = "the ACL is dropped, and so is what group and others may do"
		}
		more := ""
		if others := n[kind].count - 1; others > 0 {
			more = fmt.Sprintf(" (and of %d more)", others)
		}
		out = append(out, fmt.Sprintf("squashfs cannot keep %.80q of %.80q%s: %s", kind, n[kind].example, more, what))
	}
	return out
}
