package lb

import (
	"fmt"
	"strings"
	"testing"
)

// TestLoads holds the tables of Envoy's documentation, with its default factor and threshold, and what
// follows from its words where it has none. A "!" is a panic.
func TestLoads(t *testing.T) {
	percent := func(all ...int) []health {
		var list []health
		for _, p := range all {
			list = append(list, health{p, 100})
		}
		return list
	}
	for _, tc := range []struct {
		name            string
		priorities      []health
		over, threshold uint32
		want            string
	}{
		// "Priority levels", two levels: the second takes what the first cannot.
		{"100", percent(100, 100), 140, 50, "100 0"},
		{"72", percent(72, 72), 140, 50, "100 0"},
		{"71", percent(71, 71), 140, 50, "99 1"},
		{"50", percent(50, 50), 140, 50, "70 30"},
		{"25 of 100", percent(25, 100), 140, 50, "35 65"},
		{"0 of 100", percent(0, 100), 140, 50, "0 100"},
		// The healths add up to less than 100 and are scaled.
		{"25 twice", percent(25, 25), 140, 0, "50 50"},
		// Three levels.
		{"100 100 100", percent(100, 100, 100), 140, 50, "100 0 0"},
		{"72 72 100", percent(72, 72, 100), 140, 50, "100 0 0"},
		{"71 71 100", percent(71, 71, 100), 140, 50, "99 1 0"},
		{"50 50 100", percent(50, 50, 100), 140, 50, "70 30 0"},
		{"25 100 100", percent(25, 100, 100), 140, 50, "35 65 0"},
		{"25 25 100", percent(25, 25, 100), 140, 50, "35 35 30"},
		// (The documentation rounds this one to 36 36 28, the code gives what is left over to the first.)
		{"25 25 20", percent(25, 25, 20), 140, 0, "37 35 28"},
		// "Panic threshold": as long as together they are whole there is no panic.
		{"panic, 72", percent(72, 72), 140, 50, "100 0"},
		{"panic, 5 of 100", percent(5, 100), 140, 50, "7 93"},
		{"panic, 50 50", percent(50, 50), 140, 50, "70 30"},
		{"panic, 25 50: not whole", percent(25, 26), 140, 50, "50! 50!"},
		{"panic, one of them", percent(5, 65), 140, 50, "8! 92"},
		{"panic, all", percent(0, 0), 140, 50, "50! 50!"},
		{"panic, all by size", []health{{0, 2}, {0, 1}, {0, 0}}, 140, 50, "67! 33! 0!"},
		{"threshold 0, nobody", percent(0, 0), 140, 0, "0 0"},
		{"threshold 100", percent(99), 100, 100, "100!"},
		{"threshold 100, whole", percent(99), 140, 100, "100"},
		// One level: the factor makes no difference but for panics.
		{"one, half", []health{{1, 2}}, 140, 50, "100"},
		{"one, less than half", []health{{1, 3}}, 140, 50, "100!"},
		{"one, less than half, no panic", []health{{1, 3}}, 140, 0, "100"},
		// A level of no endpoints of the family at all.
		{"empty first", []health{{0, 0}, {3, 3}}, 140, 50, "0 100"},
		{"empty first, half the second", []health{{0, 0}, {1, 2}}, 140, 50, "0! 100"},
		{"no endpoint", []health{{0, 0}}, 140, 50, "0!"},
		{"no level", nil, 140, 50, ""},
		// The cluster's own factor.
		{"factor 100", percent(72, 100), 100, 50, "72 28"},
		{"factor 200", percent(50, 100), 200, 50, "100 0"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got []string
			for _, l := range loads(tc.priorities, tc.over, tc.threshold) {
				s := fmt.Sprint(l.percent)
				if l.panic {
					s += "!"
				}
				got = append(got, s)
			}
			if got := strings.Join(got, " "); got != tc.want {
				t.Errorf("%v: %s, want %s", tc.priorities, got, tc.want)
			}
		})
	}
}
