package main

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

const testEntry = `{"type":"nodens","capabilities":{"dns":true}}`

var quiet = slog.New(slog.DiscardHandler)

func TestListKeepsEveryOtherByte(t *testing.T) {
	for name, tc := range map[string]struct{ before, after string }{
		"indented": {
			"{\n\t\"name\": \"n\", \"big\": 9007199254740993, \"s\": \"<&>\",\n\t\"plugins\": [\n\t\t{\"type\": \"bridge\"},\n\t\t{\"type\": \"portmap\"}\n\t]\n}",
			"{\n\t\"name\": \"n\", \"big\": 9007199254740993, \"s\": \"<&>\",\n\t\"plugins\": [\n\t\t{\"type\": \"bridge\"},\n\t\t{\"type\": \"portmap\"},\n\t\tE\n\t]\n}",
		},
		"dense":           {`{"name":"n","plugins":[{"type":"ptp"}],"x":1.0}`, `{"name":"n","plugins":[{"type":"ptp"},E],"x":1.0}`},
		"plugins first":   {`{"plugins":[ {"type":"ptp"} ],"name":"n"}`, `{"plugins":[ {"type":"ptp"}, E ],"name":"n"}`},
		"there, outdated": {`{"name":"n","plugins":[{"type":"ptp"},{"type":"nodens","x":1},{"type":"portmap"}]}`, `{"name":"n","plugins":[{"type":"ptp"},E,{"type":"portmap"}]}`},
		"there twice":     {`{"name":"n","plugins":[{"type":"ptp"}, E , {"type":"tuning"},  {"type":"nodens"}]}`, `{"name":"n","plugins":[{"type":"ptp"}, E , {"type":"tuning"}]}`},
		"nested plugins":  {`{"name":"n","x":{"plugins":[1]},"plugins":[{"type":"ptp","plugins":[]}]}`, `{"name":"n","x":{"plugins":[1]},"plugins":[{"type":"ptp","plugins":[]},E]}`},
		"same, respaced":  {`{"name":"n","plugins":[{"type":"ptp"},{ "capabilities": {"dns": true}, "type": "nodens" }]}`, `{"name":"n","plugins":[{"type":"ptp"},{ "capabilities": {"dns": true}, "type": "nodens" }]}`},
	} {
		t.Run(name, func(t *testing.T) {
			put := func(s string) string { return strings.ReplaceAll(s, "E", testEntry) }
			l, err := parseList([]byte(put(tc.before)))
			if err != nil {
				t.Fatal(err)
			}
			got := l.with([]byte(testEntry))
			if string(got) != put(tc.after) {
				t.Errorf("got  %s\nwant %s", got, put(tc.after))
			}
			again, err := parseList(got)
			if err != nil {
				t.Fatal(err)
			}
			if string(again.with([]byte(testEntry))) != string(got) {
				t.Error("a second time changes it again")
			}
		})
	}
}

// What installing did, uninstalling undoes to the byte.
func TestListRoundTrip(t *testing.T) {
	for _, before := range []string{
		`{"name":"n","plugins":[{"type":"ptp"}]}`,
		"{\n  \"name\": \"n\",\n  \"plugins\": [\n    {\n      \"type\": \"bridge\"\n    },\n    {\"type\": \"portmap\"}\n  ]\n}\n",
	} {
		l, err := parseList([]byte(before))
		if err != nil {
			t.Fatal(err)
		}
		l, err = parseList(l.with([]byte(testEntry)))
		if err != nil {
			t.Fatal(err)
		}
		if after, err := l.without(); err != nil || string(after) != before {
			t.Errorf("%v\ngot  %s\nwant %s", err, after, before)
		}
	}
	first, err := parseList([]byte(`{"name":"n","plugins":[ {"type":"nodens"}, {"type":"nodens"},  {"type":"ptp"} ]}`))
	if err != nil {
		t.Fatal(err)
	}
	if after, err := first.without(); err != nil || string(after) != `{"name":"n","plugins":[ {"type":"ptp"} ]}` {
		t.Errorf("%v, %s", err, after)
	}
}

func TestBadLists(t *testing.T) {
	for list, reason := range map[string]string{
		``:                                 "not a network configuration list",
		`{"name":"n"`:                      "not a network configuration list",
		`[]`:                               "not a network configuration list",
		`{"name":"n","plugins":[]}`:        "needs a name and plugins",
		`{"plugins":[{"type":"ptp"}]}`:     "needs a name and plugins",
		`{"name":"n","Plugins":[{"a":1}]}`: `not spelled "plugins"`,
		`{"name":"n","plugins":[{"a":1}],"plugins":[{"a":1}]}`: "there twice",
	} {
		if _, err := parseList([]byte(list)); err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("%s: %v, want %s", list, err, reason)
		}
	}
	l, err := parseList([]byte(`{"name":"n","plugins":[{"type":"nodens"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.without(); err == nil {
		t.Error("a list was left without plugins")
	}
	for conf, reason := range map[string]string{
		`{"name":"n","type":"nodens"}`: "makes no network", `{"type":"ptp"}`: "needs a name", `{"name":"n","plugins":[]}`: "needs a name and a type",
	} {
		if _, err := wrap([]byte(conf)); err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("%s: %v, want %s", conf, err, reason)
		}
	}
}

func FuzzList(f *testing.F) {
	f.Add([]byte(testList))
	f.Add([]byte(`{"plugins":[ {"type":"nodens"}, {"type":"ptp"}],"name":"n"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := parseList(data)
		if err != nil {
			return
		}
		with, err := parseList(l.with([]byte(testEntry)))
		if err != nil || len(with.ours) != 1 || len(with.plugins)-1 != len(l.plugins)-len(l.ours) {
			t.Fatalf("%q became %v: %v", data, with, err)
		}
		if len(l.ours) > 0 {
			return
		}
		if back, err := with.without(); err != nil || !bytes.Equal(back, data) {
			t.Fatalf("%q came back as %q: %v", data, back, err)
		}
	})
}
