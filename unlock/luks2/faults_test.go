package luks2

import "strings"

// A fault is one change to the JSON of a header that is otherwise good.
type fault struct{ name, old, new, field string }

var faults = []fault{
	// The attacks that have opened volumes of others.
	{"null cipher in the segment", `"dynamic","iv_tweak":"0","encryption":"aes-xts-plain64"`, `"dynamic","iv_tweak":"0","encryption":"cipher_null-ecb"`, "segments.0.encryption"},
	{"null cipher in the keyslot", `"258048","encryption":"aes-xts-plain64"`, `"258048","encryption":"cipher_null-ecb"`, "keyslots.0.area.encryption"},
	{"key and device in the cipher", `"iv_tweak":"0","encryption":"aes-xts-plain64"`, `"iv_tweak":"0","encryption":"aes-xts-plain64 00 0 /dev/vdb 0"`, "segments.0.encryption"},
	{"kernel's own cipher name", `"iv_tweak":"0","encryption":"aes-xts-plain64"`, `"iv_tweak":"0","encryption":"capi:ecb(cipher_null)-plain64"`, "segments.0.encryption"},
	{"empty digest", `"digest":"*"`, `"digest":""`, "digests.0.digest"},
	{"short digest", `"digest":"*"`, `"digest":"AAAA"`, "digests.0.digest"},
	{"digest longer than its hash", `"digest":"*"`, `"digest":"` + strings.Repeat("AAAA", 11) + `"`, "digests.0.digest"},
	{"digest far too long", `"digest":"*"`, `"digest":"` + strings.Repeat("AAAA", 30) + `"`, "digests.0.digest"},
	{"digest of another hash's length", `["0"],"hash":"sha256"`, `["0"],"hash":"sha512"`, "digests.0.digest"},
	{"integrity", `"sector_size":4096`, `"sector_size":4096,"integrity":{"type":"none"}`, "segments.0.integrity"},
	{"segment flags", `"sector_size":4096`, `"sector_size":4096,"flags":["in-reencryption"]`, "segments.0.flags"},
	{"allow-discards", `"json_size"`, `"flags":["allow-discards"],"json_size"`, "config.flags"},
	{"requirements", `"json_size"`, `"requirements":{"mandatory":["online-reencrypt-v2"]},"json_size"`, "config.requirements"},
	{"endless memory", `"type":"pbkdf2","hash":"sha256","iterations":1000,"salt"`, `"type":"argon2id","time":4,"memory":16777216,"cpus":4,"salt"`, "keyslots.0.kdf.memory"},
	{"memory beyond 32 bits", `"type":"pbkdf2","hash":"sha256","iterations":1000,"salt"`, `"type":"argon2id","time":4,"memory":4294967360,"cpus":4,"salt"`, "keyslots.0.kdf.memory"},
	{"memory for no lane", `"type":"pbkdf2","hash":"sha256","iterations":1000,"salt"`, `"type":"argon2id","time":4,"memory":31,"cpus":4,"salt"`, "keyslots.0.kdf.memory"},
	{"lanes beyond 8 bits", `"type":"pbkdf2","hash":"sha256","iterations":1000,"salt"`, `"type":"argon2id","time":4,"memory":65536,"cpus":257,"salt"`, "keyslots.0.kdf.cpus"},
	{"no lanes", `"type":"pbkdf2","hash":"sha256","iterations":1000,"salt"`, `"type":"argon2id","time":4,"memory":65536,"cpus":0,"salt"`, "keyslots.0.kdf.cpus"},
	{"no passes", `"type":"pbkdf2","hash":"sha256","iterations":1000,"salt"`, `"type":"argon2i","time":0,"memory":65536,"cpus":1,"salt"`, "keyslots.0.kdf.time"},
	{"passes beyond 32 bits", `"type":"pbkdf2","hash":"sha256","iterations":1000,"salt"`, `"type":"argon2i","time":4294967300,"memory":65536,"cpus":1,"salt"`, "keyslots.0.kdf.time"},
	{"hash in argon2", `"type":"pbkdf2","hash":"sha256","iterations":1000,"salt"`, `"type":"argon2i","hash":"sha256","time":4,"memory":65536,"cpus":1,"salt"`, "keyslots.0.kdf.hash"},
	{"another kdf", `"kdf":{"type":"pbkdf2"`, `"kdf":{"type":"scrypt"`, "keyslots.0.kdf"},
	{"kdf is a list", `"kdf":{*}}}`, `"kdf":[]}}`, "keyslots.0.kdf"},
	{"endless iterations", `"hash":"sha256","iterations":1000,`, `"hash":"sha256","iterations":4294967295,`, "keyslots.0.kdf.iterations"},
	{"few iterations", `"hash":"sha256","iterations":1000,`, `"hash":"sha256","iterations":999,`, "keyslots.0.kdf.iterations"},
	{"iterations as text", `"hash":"sha256","iterations":1000,`, `"hash":"sha256","iterations":"1000",`, "keyslots.0.kdf.iterations"},
	{"iterations with exponent", `"hash":"sha256","iterations":1000,`, `"hash":"sha256","iterations":1e3,`, "keyslots.0.kdf.iterations"},
	{"iterations beyond 64 bits", `"hash":"sha256","iterations":1000,`, `"hash":"sha256","iterations":18446744073709552616,`, "keyslots.0.kdf.iterations"},
	{"negative iterations", `"hash":"sha256","iterations":1000,`, `"hash":"sha256","iterations":-1000,`, "keyslots.0.kdf.iterations"},
	{"endless iterations in the digest", `["0"],"hash":"sha256","iterations":1000`, `["0"],"hash":"sha256","iterations":2147483648`, "digests.0.iterations"},
	{"sha1", `"pbkdf2","hash":"sha256"`, `"pbkdf2","hash":"sha1"`, "keyslots.0.kdf.hash"},
	{"sha1 in the digest", `["0"],"hash":"sha256"`, `["0"],"hash":"sha1"`, "digests.0.hash"},
	{"another digest type", `"digests":{"0":{"type":"pbkdf2"`, `"digests":{"0":{"type":"none"`, "digests.0.type"},
	{"short salt", `1000,"salt":"*"`, `1000,"salt":"AAAAAAAAAAAAAAAAAAAA"`, "keyslots.0.kdf.salt"},
	{"no salt", `1000,"salt":"*"`, `1000`, "keyslots.0.kdf.salt"},
	{"long salt", `1000,"salt":"*"`, `1000,"salt":"` + strings.Repeat("AAAA", 22) + `"`, "keyslots.0.kdf.salt"},
	{"newline in base64", `1000,"salt":"*"`, `1000,"salt":"AAAAAAAAAAAAAAAA\nAAAAAAAA"`, "keyslots.0.kdf.salt"},
	{"loose bits in base64", `1000,"salt":"*"`, `1000,"salt":"AAAAAAAAAAAAAAAAAAAAAB=="`, "keyslots.0.kdf.salt"},
	{"no base64", `1000,"salt":"*"`, `1000,"salt":"####################"`, "keyslots.0.kdf.salt"},
	{"short salt in the digest", `["0"],"hash":"sha256","iterations":1000,"salt":"*","digest"`, `["0"],"hash":"sha256","iterations":1000,"salt":"AAAA","digest"`, "digests.0.salt"},

	// Shape: one of everything, known keys once, in exactly this case.
	{"another case", `"encryption":"aes-xts-plain64","sector_size"`, `"Encryption":"aes-xts-plain64","sector_size"`, "segments.0.encryption"},
	{"key in two cases", `"sector_size":4096`, `"sector_size":4096,"Encryption":"cipher_null-ecb"`, `segments.0."Encryption"`},
	{"long s folds to s", `"sector_size":4096`, `"sector_size":4096,"ſize":"512"`, `segments.0."\u017fize"`},
	{"key twice", `"sector_size":4096`, `"sector_size":4096,"sector_size":4096`, "header: JSON area"},
	{"key twice by escape", `"sector_size":4096`, `"sector_size":4096,"sector\u005fsize":512`, "header: JSON area"},
	{"section twice", `"tokens":{}`, `"tokens":{},"tokens":{}`, "header: JSON area"},
	{"unknown section", `"tokens":{}`, `"tokens":{},"x":{}`, "x"},
	{"section missing", `"tokens":{},`, ``, "tokens"},
	{"token", `"tokens":{}`, `"tokens":{"0":{"type":"clevis","keyslots":["0"]}}`, `tokens.0`},
	{"tokens are a list", `"tokens":{}`, `"tokens":[]`, "tokens"},
	{"two keyslots", `"keyslots":{"0":`, `"keyslots":{"1":{},"0":`, "keyslots"},
	{"no keyslot", `"keyslots":{*},"tokens"`, `"keyslots":{},"tokens"`, "keyslots"},
	{"two segments", `"segments":{"0":`, `"segments":{"1":{},"0":`, "segments"},
	{"no segment", `"segments":{*},"digests"`, `"segments":{},"digests"`, "segments"},
	{"two digests", `"digests":{"0":`, `"digests":{"1":{},"0":`, "digests"},
	{"no digest", `"digests":{*},"config"`, `"digests":{},"config"`, "digests"},
	{"keyslot 32", `"keyslots":{"0":`, `"keyslots":{"32":`, "keyslots"},
	{"keyslot 00", `"keyslots":{"0":`, `"keyslots":{"00":`, "keyslots"},
	{"keyslot +0", `"keyslots":{"0":`, `"keyslots":{"+0":`, "keyslots"},
	{"keyslot -1", `"keyslots":{"0":`, `"keyslots":{"-1":`, "keyslots"},
	{"digest of another keyslot", `"keyslots":["0"]`, `"keyslots":["1"]`, "digests.0.keyslots"},
	{"digest of two keyslots", `"keyslots":["0"]`, `"keyslots":["0","1"]`, "digests.0.keyslots"},
	{"digest of no keyslot", `"keyslots":["0"]`, `"keyslots":[]`, "digests.0.keyslots"},
	{"digest of a number", `"keyslots":["0"]`, `"keyslots":[0]`, "digests.0.keyslots"},
	{"digest of another segment", `"segments":["0"]`, `"segments":["1"]`, "digests.0.segments"},
	{"digest of no segment", `"segments":["0"]`, `"segments":[]`, "digests.0.segments"},
	{"null", `"sector_size":4096`, `"sector_size":null`, "header: JSON area"},
	{"true", `"sector_size":4096`, `"sector_size":true`, "header: JSON area"},
	{"deep", `"tokens":{}`, `"tokens":` + strings.Repeat("[", 20) + strings.Repeat("]", 20), "header: JSON area"},
	{"many values", `"tokens":{}`, `"tokens":[` + strings.Repeat("0,", maxValues) + "0]", "header: JSON area"},
	{"missing comma", `"tokens":{},`, `"tokens":{}`, "header: JSON area"},
	{"trailing comma", `"tokens":{}`, `"tokens":{},,`, "header: JSON area"},
	{"comment", `"tokens":{}`, `/**/"tokens":{}`, "header: JSON area"},
	{"second object", `{"keyslots":`, `{}{"keyslots":`, "header: JSON area"},
	{"bad UTF-8 in a key", `"tokens":{}`, "\"tokens\":{},\"\xff\":{}", `"\ufffd"`},

	// Keyslot.
	{"keyslot type", `"type":"luks2"`, `"type":"reencrypt"`, "keyslots.0.type"},
	{"keyslot to be ignored", `"af":`, `"priority":0,"af":`, "keyslots.0.priority"},
	{"keyslot of priority 3", `"af":`, `"priority":3,"af":`, "keyslots.0.priority"},
	{"256-bit key", `"key_size":64,"af"`, `"key_size":32,"af"`, "keyslots.0.key_size"},
	{"no key", `"key_size":64,"af"`, `"key_size":0,"af"`, "keyslots.0.key_size"},
	{"endless key", `"key_size":64,"af"`, `"key_size":4611686018427387904,"af"`, "keyslots.0.key_size"},
	{"area's key size", `"aes-xts-plain64","key_size":64`, `"aes-xts-plain64","key_size":32`, "keyslots.0.area.key_size"},
	{"af type", `"type":"luks1"`, `"type":"none"`, "keyslots.0.af.type"},
	{"stripes", `"stripes":4000`, `"stripes":1`, "keyslots.0.af.stripes"},
	{"af hash", `4000,"hash":"sha256"`, `4000,"hash":"sha1"`, "keyslots.0.af.hash"},
	{"no area", `"area":{*},"kdf"`, `"kdf"`, "keyslots.0.area"},
	{"area type", `"type":"raw"`, `"type":"datashift"`, "keyslots.0.area.type"},
	{"area in the header", `"offset":"32768"`, `"offset":"28672"`, "keyslots.0.area.offset"},
	{"area off the grid", `"offset":"32768"`, `"offset":"33280"`, "keyslots.0.area.offset"},
	{"area behind the region", `"offset":"32768"`, `"offset":"1048576"`, "keyslots.0.area.size"},
	{"area into the data", `"offset":"32768"`, `"offset":"794624"`, "keyslots.0.area.size"},
	{"area offset beyond 63 bits", `"offset":"32768"`, `"offset":"9223372036854775808"`, "keyslots.0.area.offset"},
	{"area offset as a number", `"offset":"32768"`, `"offset":32768`, "keyslots.0.area.offset"},
	{"area offset with zeros", `"offset":"32768"`, `"offset":"032768"`, "keyslots.0.area.offset"},
	{"area too small", `"size":"258048"`, `"size":"255999"`, "keyslots.0.area.size"},
	{"area too large", `"size":"258048"`, `"size":"1019904"`, "keyslots.0.area.size"},
	{"area size wraps", `"size":"258048"`, `"size":"18446744073709551615"`, "keyslots.0.area.size"},

	// Segment.
	{"linear segment", `"type":"crypt"`, `"type":"linear"`, "segments.0.type"},
	{"segment in the keyslots", `"offset":"1048576"`, `"offset":"1044480"`, "segments.0.offset"},
	{"segment at 0", `"offset":"1048576"`, `"offset":"0"`, "segments.0.offset"},
	{"segment off the grid", `"offset":"1048576"`, `"offset":"1049088"`, "segments.0.offset"},
	{"segment behind the device", `"offset":"1048576"`, `"offset":"67112960"`, "segments.0.offset"},
	{"empty segment", `"offset":"1048576"`, `"offset":"67108864"`, "segments.0.size"},
	{"size 0", `"dynamic"`, `"0"`, "segments.0.size"},
	{"size beyond the device", `"dynamic"`, `"66064384"`, "segments.0.size"},
	{"size off the grid", `"dynamic"`, `"8704"`, "segments.0.size"},
	{"size in words", `"dynamic"`, `"Dynamic"`, "segments.0.size"},
	{"size wraps", `"dynamic"`, `"18446744073709551616"`, "segments.0.size"},
	{"size as a number", `"dynamic"`, `8192`, "segments.0.size"},
	{"tweak", `"iv_tweak":"0"`, `"iv_tweak":"8"`, "segments.0.iv_tweak"},
	{"no tweak", `"iv_tweak":"0",`, ``, "segments.0.iv_tweak"},
	{"sector 0", `"sector_size":4096`, `"sector_size":0`, "segments.0.sector_size"},
	{"sector 3072", `"sector_size":4096`, `"sector_size":3072`, "segments.0.sector_size"},
	{"sector 8192", `"sector_size":4096`, `"sector_size":8192`, "segments.0.sector_size"},

	// Config.
	{"json_size", `"json_size":"12288"`, `"json_size":"16384"`, "config.json_size"},
	{"keyslots_size into the data", `"keyslots_size":"1015808"`, `"keyslots_size":"1019904"`, "segments.0.offset"},
	{"keyslots_size off the grid", `"keyslots_size":"1015808"`, `"keyslots_size":"1015296"`, "config.keyslots_size"},
	{"keyslots_size 0", `"keyslots_size":"1015808"`, `"keyslots_size":"0"`, "keyslots.0.area.size"},
	{"keyslots_size beyond the device", `"keyslots_size":"1015808"`, `"keyslots_size":"67108864"`, "config.keyslots_size"},
	{"keyslots_size wraps", `"keyslots_size":"1015808"`, `"keyslots_size":"18446744073709518848"`, "config.keyslots_size"},
}

// put puts the fault into text; text without the place for it comes back as
// it is. A * in old stands for the shortest run of characters that leads to
// what follows it.
func (f fault) put(text string) string {
	before, after, open := strings.Cut(f.old, "*")
	start := strings.Index(text, before)
	if start < 0 {
		return text
	}
	end := start + len(before)
	if open {
		n := strings.Index(text[end:], after)
		if n < 0 {
			return text
		}
		end += n + len(after)
	}
	return text[:start] + f.new + text[end:]
}
