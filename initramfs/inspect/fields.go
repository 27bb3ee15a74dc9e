package inspect

import (
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Fields print a line each, and are an object in JSON, in their order.
type Fields []Field

// Field is one line of a report. Each element of a list prints as a line of its own.
type Field struct {
	Name  string // as in JSON
	Value any    // nil does not print
}

// Print prints the fields, some lines of text.
func (f Fields) Print(w io.Writer) {
	for _, v := range f {
		name := strings.ReplaceAll(v.Name, "_", " ")
		if list := reflect.ValueOf(v.Value); list.Kind() == reflect.Slice {
			for i := range list.Len() {
				fmt.Fprintf(w, "%s: %s\n", name, printable(fmt.Sprint(list.Index(i))))
			}
		} else if v.Value != nil {
			fmt.Fprintf(w, "%s: %s\n", name, printable(fmt.Sprint(v.Value)))
		}
	}
}

// MarshalJSON implements json.Marshaler.
func (f Fields) MarshalJSON() ([]byte, error) {
	parts := make([]string, len(f))
	for i, v := range f {
		value, err := json.Marshal(v.Value)
		if err != nil {
			return nil, err
		}
		parts[i] = fmt.Sprintf("%q:%s", v.Name, value)
	}
	return []byte("{" + strings.Join(parts, ",") + "}"), nil
}

// printable quotes what would not show as it is, and bounds it.
func printable(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }) {
		s = strconv.Quote(s)
	}
	return fmt.Sprintf("%.8192s", s)
}
