package release

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"cocoroot/initramfs/fault"
	"cocoroot/unlock/policy"
	"cocoroot/unlock/secmem"
)

// Order is one line of the entry policy.Orders, in which the owner says what one
// launch may do with a state disk.
type Order struct{ verb, name, rest string }

// ParseCreate reads the NAME of a state disk that may be formatted.
func ParseCreate(name string) (Order, error) {
	return Order{"create", name, ""}, policy.CheckStateName(name)
}

// ParseFloor reads NAME=GENERATION: what is older than that is refused.
func ParseFloor(text string) (Order, error) {
	name, number, _ := strings.Cut(text, "=")
	n, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return Order{}, fmt.Errorf("%.80q is not NAME=GENERATION, such as data=1742: cocoroot state generation prints it, in the guest", text)
	}
	return Order{"floor", name, fmt.Sprintf(" %d", n)}, policy.CheckStateName(name)
}

// CheckOrders refuses orders about states that a guest's line does not have.
func CheckOrders(orders []Order, p policy.Policy) error {
	for _, o := range orders {
		if !slices.ContainsFunc(p.States, func(s policy.State) bool { return s.Name == o.name }) {
			return fault.Usagef("--state-%s: the guest's line has no state %s", o.verb, o.name)
		}
	}
	return nil
}

// ordersEntry returns the entry's data. Nothing of it is secret.
func ordersEntry(orders []Order) (*secmem.Buffer, error) {
	var text string
	for i, o := range orders {
		if slices.ContainsFunc(orders[:i], func(other Order) bool { return other.name == o.name }) {
			return nil, fault.Usagef("there are two orders about the state %s: it is made anew, or it has reached a generation", o.name)
		}
		text += o.verb + " " + o.name + o.rest + "\n"
	}
	b, err := secmem.New(len(text))
	if err == nil {
		copy(b.Bytes(), text)
	}
	return b, err
}
