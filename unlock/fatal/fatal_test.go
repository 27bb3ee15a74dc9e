package fatal

import (
	"errors"
	"fmt"
	"io"
	"testing"
)

func TestCodeOf(t *testing.T) {
	err := fmt.Errorf("outer: %w", Errorf(LUKSKey, "inner: %w", io.EOF))
	if got := CodeOf(err, Crash); got != LUKSKey {
		t.Errorf("CodeOf = %s; want %s", got, LUKSKey)
	}
	if !errors.Is(err, io.EOF) {
		t.Error("the cause is lost")
	}
	if got := CodeOf(io.EOF, Crash); got != Crash {
		t.Errorf("CodeOf(plain) = %s; want the fallback", got)
	}
}
