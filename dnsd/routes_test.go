package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "dnsd.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestRouteStore: without etcd there is nowhere to store routes, and it is said what to do instead.
func TestRouteStore(t *testing.T) {
	for text, want := range map[string]string{
		"{}": "set etcd.endpoints there, or put the route as a file into the folder file.dir",
		`etcd: {endpoints: ["http://127.0.0.1:1"]}`:                                              "set routes.file there",
		`{etcd: {endpoints: ["http://127.0.0.1:1"]}, routes: {file: /x, address: 192.168.1.13}}`: "",
	} {
		_, err := routeStore(writeFile(t, text))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
