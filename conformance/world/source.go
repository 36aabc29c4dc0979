package world

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// AddSource builds this world's dnsd anew with one more source: a folder of dnsd's, called name, with one file
// of code, and one line at the end of the list of sources. Everything else is as it stands; the tree itself is
// not touched.
func (w *World) AddSource(ctx context.Context, name, code, line string) error {
	dir, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		return fmt.Errorf("find the sources of %s: %w", module, err)
	}
	dnsd := filepath.Join(strings.TrimSpace(string(dir)), "dnsd")
	wiring, err := os.ReadFile(filepath.Join(dnsd, "sources.go"))
	if err != nil {
		return err
	}
	head, list, ok := strings.Cut(string(wiring), ") []source {\n")
	list, rest, ends := strings.Cut(list, "\treturn s\n}\n")
	if !ok || !ends {
		return errors.New("dnsd/sources.go has no list of sources where it used to be")
	}
	head = strings.Replace(head, "import (\n", fmt.Sprintf("import (\n\t%q\n", module+"/dnsd/"+name), 1)
	text := head + ") []source {\n" + list + "\t" + line + "\n\treturn s\n}\n" + rest

	overlay := map[string]map[string]string{"Replace": {}}
	for path, text := range map[string]string{
		filepath.Join(dnsd, "sources.go"): text, filepath.Join(dnsd, name, name+".go"): code,
	} {
		instead := w.path("source-" + filepath.Base(path))
		if err := os.WriteFile(instead, []byte(text), 0o600); err != nil {
			return err
		}
		overlay["Replace"][path] = instead
	}
	listing, err := json.Marshal(overlay)
	if err != nil {
		return err
	}
	if err := os.WriteFile(w.path("overlay.json"), listing, 0o600); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-overlay", w.path("overlay.json"), "-o", w.path("dnsd-with-"+name), module+"/dnsd")
	cmd.Dir, cmd.Env = filepath.Dir(dnsd), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build dnsd with the source %s: %w\n%s", name, err, out)
	}
	w.dnsdPath = w.path("dnsd-with-" + name)
	return nil
}
