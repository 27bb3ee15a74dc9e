package state

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"cocoroot/unlock/policy"
)

var someStates = []policy.State{{Name: "db"}, {Name: "logs-2"}}

var orderSeeds = []struct {
	text string
	want Orders // nil for a refusal
	err  error
}{
	{"create db\n", Orders{"db": {Create: true}}, nil},
	{"floor db 1742\ncreate logs-2\n", Orders{"db": {Floor: 1742}, "logs-2": {Create: true}}, nil},
	{"floor db 18446744073709551615\nfloor logs-2 0\n", Orders{"db": {Floor: 1<<64 - 1}, "logs-2": {}}, nil},
	{"", nil, errOrder},
	{"\n", nil, errOrder},
	{"create db", nil, errOrder},
	{"create db\n\n", nil, errOrder},
	{"create db\nfloor", nil, errOrder},
	{"create  db\n", nil, errOrder},
	{" create db\n", nil, errOrder},
	{"create db \n", nil, errOrder},
	{"create db\r\n", nil, errNoState},
	{"create db now\n", nil, errOrder},
	{"Create db\n", nil, errOrder},
	{"grow db\n", nil, errOrder},
	{"floor db\n", nil, errOrder},
	{"floor db 01\n", nil, errOrder},
	{"floor db +1\n", nil, errOrder},
	{"floor db -1\n", nil, errOrder},
	{"floor db 0x1\n", nil, errOrder},
	{"floor db 1_0\n", nil, errOrder},
	{"floor db 18446744073709551616\n", nil, errOrder},
	{"create db\x00\n", nil, errNoState},
	{"create x\n", nil, errNoState},
	{"create \n", nil, errNoState},
	{"create db\ncreate db\n", nil, errSecond},
	{"floor db 1\nfloor db 1\n", nil, errSecond},
	{"floor db 0\ncreate db\n", nil, errSecond},
	{"create db\nfloor db 7\n", nil, errSecond},
}

func TestOrders(t *testing.T) {
	for _, tc := range orderSeeds {
		got, err := ParseOrders([]byte(tc.text), someStates)
		if !errors.Is(err, tc.err) || !reflect.DeepEqual(got, tc.want) {
			t.Errorf("ParseOrders(%q) = %+v, %v; want %+v, %v", tc.text, got, err, tc.want, tc.err)
		}
	}
	if _, err := ParseOrders([]byte("create db\n"), nil); !errors.Is(err, errNoState) {
		t.Errorf("orders without a state: %v; want errNoState", err)
	}
	if _, err := ParseOrders([]byte("create db\nhunter2 hunter2\n"), someStates); err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("the error %v; want the number of the line, and nothing of it", err)
	}
}

// FuzzOrders: whatever is accepted says what it was read as, in one way only.
func FuzzOrders(f *testing.F) {
	for _, s := range orderSeeds {
		f.Add([]byte(s.text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		orders, err := ParseOrders(text, someStates)
		if err != nil {
			return
		}
		lines := strings.Count(string(text), "\n")
		if lines != len(orders) || len(orders) == 0 || len(orders) > len(someStates) {
			t.Errorf("ParseOrders(%q) = %+v", text, orders)
		}
		for name, o := range orders {
			if o.Create != strings.Contains(string(text), "create "+name+"\n") || o.Create && o.Floor > 0 {
				t.Errorf("ParseOrders(%q) = %+v", text, orders)
			}
		}
	})
}

func TestFuzzOrdersSeeds(t *testing.T) {
	accepted := 0
	for _, s := range orderSeeds {
		if _, err := ParseOrders([]byte(s.text), someStates); err == nil {
			accepted++
		}
	}
	if accepted != 3 {
		t.Errorf("%d seeds are accepted; want 3", accepted)
	}
}
