package runtimes_test

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nodens-dns/nodens/conformance/app"
	"github.com/nodens-dns/nodens/conformance/script"
	"github.com/nodens-dns/nodens/conformance/world"
)

// resolved starts Debian's systemd-resolved on the node. Its package is unpacked and not installed, which
// would make it this machine's own resolver.
func resolved(t *testing.T, w *world.World) {
	t.Helper()
	dir := filepath.Join(w.Dir, "resolved")
	const unpack = `mkdir -p "$1/x" && cd "$1" && apt-get download -qq systemd-resolved libsystemd-shared >/dev/null 2>&1 &&
		for deb in *.deb; do dpkg -x "$deb" x; done`
	if out, err := exec.Command("sh", "-c", unpack, "sh", dir).CombinedOutput(); err != nil {
		t.Fatalf("fetch systemd-resolved: %v\n%s", err, out)
	}
	for name, line := range map[string]string{"passwd": "systemd-resolve:x:991:991::/:/usr/sbin/nologin", "group": "systemd-resolve:x:991:"} {
		text, err := os.ReadFile("/etc/" + name)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), fmt.Appendf(text, "%s\n", line), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	// What ends in .local is mDNS's to resolved, unless a domain leads to a server.
	const start = `echo $$ >"$2/cgroup.procs" && mount --bind "$1/passwd" /etc/passwd && mount --bind "$1/group" /etc/group &&
		mount -t tmpfs none /run && mkdir -p /run/systemd/resolve /run/systemd/netif/links /run/systemd/resolved.conf.d &&
		chown 991:991 /run/systemd/resolve &&
		printf '[Resolve]\nDNS=%s\nFallbackDNS=\nDomains=~cluster.local\nMulticastDNS=no\n' "$3" >/run/systemd/resolved.conf.d/vm.conf &&
		LD_LIBRARY_PATH=$(dirname "$(find "$1/x" -name 'libsystemd-shared-*.so')") exec "$1/x/lib/systemd/systemd-resolved"`
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", start, "sh", dir, w.Cgroup(), world.Nameservers[0].String())
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := w.Node.Do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log("systemd-resolved said:\n" + log.String())
		}
	})
}

// TestResolved is a virtual machine whose resolv.conf names systemd-resolved's stub: what resolved asks is
// captured, so mesh names are known to whoever asks resolved, and each question goes out once.
func TestResolved(t *testing.T) {
	w := script.NewWorld(t)
	if err := os.WriteFile(filepath.Join(w.ManifestDir(), "mesh.yaml"), []byte(strings.Replace(manifest, "[mesh.internal]", "[mesh.internal, mesh.default.svc.cluster.local]", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	stub := netip.MustParseAddr("127.0.0.53")
	m, err := w.Machine(world.PodSpec{Nameservers: []netip.Addr{stub}}, world.Nameservers[:1])
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		w.Zone.Set("outside.example", "A", 60, "198.51.100.7"), w.Zone.Set("later.example", "A", 60, "198.51.100.8"),
		w.Configure(map[string]any{"captureHost": true, "xds": nil}), w.StartDnsd(true),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	resolved(t, w)
	ask := func(name, want string) {
		t.Helper()
		eventually(t, func() (string, bool) {
			r, err := m.Dig(app.Question{Name: name, Type: "A", Timeout: 5 * time.Second})
			return fmt.Sprint(name, r, err), err == nil && strings.Contains(strings.Join(r.Answer, " "), want)
		})
	}
	ask("mesh.internal.", " 240.")
	ask("mesh.default.svc.cluster.local.", " 240.")
	ask("outside.example.", " 198.51.100.7")
	v, err := m.Connect(app.Target{Network: "tcp4", Host: "mesh.internal", Port: 9000, Count: 3})
	if err != nil || v.Failed() > 0 || v.Servers["203.0.113.1:9000"] != 3 {
		t.Errorf("connect: %v, %v", v, err)
	}
	asked := 0
	for _, q := range w.Zone.Queries() {
		if strings.TrimSuffix(q.Name, ".") == "outside.example" {
			asked++
		}
	}
	if asked != 1 {
		t.Errorf("outside.example was asked for %d times", asked)
	}
	if err := w.SignalDnsd(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	ask("later.example.", " 198.51.100.8")
}
