package state

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"cocoroot/unlock/policy"
)

// Order is what the owner wants done with one state at one launch.
type Order struct {
	// Create allows the state to be made when its disk holds no header of it.
	// A state that is there is never made anew.
	Create bool
	Floor  uint64 // the lowest generation that is not refused
}

// Orders has the orders by the names of the states.
type Orders map[string]Order

// Errors for orders that are refused.
var (
	errOrder   = errors.New("it is neither create NAME nor floor NAME GENERATION")
	errNoState = errors.New("it names no state of the command line")
	errSecond  = errors.New("it is the second one about its state")
)

// ParseOrders reads the entry of the orders: lines of "create NAME" and of "floor
// NAME GENERATION", each ended by a newline. A state has one order at most: what
// must have reached a generation cannot be made anew. What has no meaning is an
// error, which has nothing of the text: it may be another secret's.
func ParseOrders(text []byte, states []policy.State) (Orders, error) {
	orders := make(Orders)
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		name, order, err := parseOrder(line)
		if err == nil && !slices.ContainsFunc(states, func(s policy.State) bool { return s.Name == name }) {
			err = errNoState
		}
		if _, again := orders[name]; err == nil && again {
			err = errSecond
		}
		if err != nil {
			return nil, fmt.Errorf("cannot follow line %d of the orders: %w", n, err)
		}
		orders[name] = order
	}
	if n == 0 {
		return nil, fmt.Errorf("cannot follow the orders: %w", errOrder)
	}
	return orders, nil
}

func parseOrder(line string) (name string, o Order, err error) {
	text, ended := strings.CutSuffix(line, "\n")
	words := strings.Split(text, " ")
	switch {
	case ended && words[0] == "create" && len(words) == 2:
		return words[1], Order{Create: true}, nil
	case ended && words[0] == "floor" && len(words) == 3:
		g, err := strconv.ParseUint(words[2], 10, 64)
		if err == nil && strconv.FormatUint(g, 10) == words[2] {
			return words[1], Order{Floor: g}, nil
		}
	}
	return "", Order{}, errOrder
}
