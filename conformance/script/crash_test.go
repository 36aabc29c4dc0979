package script

import "testing"

// TestCrash: what Go says when a program is wrong is found, and not what a log has of it in passing.
func TestCrash(t *testing.T) {
	for log, crashed := range map[string]bool{
		"level=INFO msg=ready\n":                                     false,
		"level=ERROR msg=\"source: panic: it says\"\n":               false,
		"level=INFO msg=ready\npanic: runtime error: index\n\n":      true,
		"==================\nWARNING: DATA RACE\nWrite at 0x00c0\n":  true,
		"fatal error: concurrent map writes\n\ngoroutine 7 [run]:\n": true,
	} {
		if crash.MatchString(log) != crashed {
			t.Errorf("crashed is not %v: %q", crashed, log)
		}
	}
}
