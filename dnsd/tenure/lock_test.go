package tenure

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAlone(t *testing.T) {
	state, run, other := t.TempDir(), t.TempDir(), t.TempDir()
	held, err := alone(state, run)
	if err != nil {
		t.Fatal(err)
	}
	for _, dirs := range [][]string{{state, run}, {other, run}, {state, other}} {
		if _, err := alone(dirs...); err == nil || !strings.Contains(err.Error(), "another dnsd works in") {
			t.Errorf("a second dnsd in %v: %v", dirs, err)
		}
	}
	// What a failed attempt held it has let go of.
	if free, err := alone(other); err != nil {
		t.Error(err)
	} else {
		free.release()
	}
	held.release()
	if held, err = alone(state, run); err != nil {
		t.Fatal(err)
	}
	held.release()
}

func TestAloneWithOneFolderForBoth(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	held, err := alone(dir, link)
	if err != nil {
		t.Fatal(err)
	}
	held.release()
}
