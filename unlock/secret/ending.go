package secret

// Ending names the white space that a key ends in, or returns "". Echo and
// editors end a file with a newline that nobody sees; whether it belongs
// to the key only its owner knows. One trailing NUL, as some carriers of
// secrets add, is ignored.
func Ending(key []byte) string {
	if n := len(key); n > 0 && key[n-1] == 0 {
		key = key[:n-1]
	}
	if len(key) == 0 {
		return ""
	}
	switch key[len(key)-1] {
	case '\n', '\r':
		return "a newline"
	case ' ', '\t':
		return "a blank"
	}
	return ""
}
