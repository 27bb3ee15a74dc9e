package fatal

import "time"

// Within runs f, and returns after d at the latest, even if f still runs: what ends
// a guest waits for no device. A panic in f is dropped, for the same reason.
func Within(d time.Duration, f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() { _ = recover() }()
		f()
	}()
	select {
	case <-done:
	case <-time.After(d):
	}
}
