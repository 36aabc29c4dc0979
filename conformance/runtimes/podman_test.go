package runtimes_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodens-dns/nodens/conformance/world"
)

// podman is Debian's, which still has CNI for a backend.
type podman struct {
	*stage
	t       *testing.T
	env     []string
	options []string
}

const podmanConfig = `[network]
network_backend = "cni"
cni_plugin_dirs = [%[1]q]
network_config_dir = %[2]q
default_network = %[3]q
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "wrapped"
[engine.runtimes]
wrapped = [%[4]q]
`

// A container of continuous integration may neither change limits nor lower oom_score_adj, which podman
// asks of the runtime whatever it is told.
const wrappedRunc = `#!/bin/sh
before=
for a in "$@"; do
	case $before in
	--bundle|-b) spec=$a/config.json ;;
	--process|-p) spec=$a ;;
	esac
	before=$a
done
test -n "$spec" && sed -i -E 's/"rlimits":\[[^]]*\],?//; s/"oomScoreAdj":-?[0-9]+,?//; s/,([}])/\1/g' "$spec"
exec runc "$@"
`

func setUpPodman(t *testing.T) *podman {
	t.Helper()
	p := &podman{stage: newStage(t), t: t}
	conf, wrapper := filepath.Join(p.dir, "containers.conf"), filepath.Join(p.dir, "wrapped-runc")
	text := fmt.Sprintf(podmanConfig, p.plugins(), p.networks(), p.Network(), wrapper)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(wrapper, []byte(wrappedRunc), 0o755); err != nil {
		t.Fatal(err)
	}
	p.env = []string{"CONTAINERS_CONF=" + conf, "TMPDIR=" + p.dir}
	p.options = []string{
		"--root", filepath.Join(p.dir, "root"), "--runroot", filepath.Join(p.dir, "run"),
		"--tmpdir", filepath.Join(p.dir, "tmp"), "--storage-driver", "vfs",
	}
	p.must("load", "--input", p.image)
	t.Cleanup(func() { _, _ = p.run("rm", "--all", "--force", "--time", "0") })
	return p
}

func (p *podman) run(args ...string) (string, error) {
	return p.onNode(p.env, "podman", append(append([]string{}, p.options...), args...)...)
}

func (p *podman) must(args ...string) {
	p.t.Helper()
	if out, err := p.run(args...); err != nil {
		p.t.Fatalf("podman %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// podmanContainer is a container by its name.
type podmanContainer struct {
	*podman
	name string
}

// start starts a container. podman tells plugins no nameservers: those of the plugin's entry are captured.
func (p *podman) start(name string) podmanContainer {
	p.t.Helper()
	p.must("run", "--detach", "--name", name, "--network", p.Network(), "--dns", world.Nameservers[0].String(),
		"--cgroup-parent", p.below("libpod"), image, "pause")
	return podmanContainer{p, name}
}

func (c podmanContainer) probe(args ...string) (string, error) {
	out, err := c.run(append([]string{"exec", c.name, "/probe"}, args...)...)
	return out, err
}

// TestPodman is the same for the CNI backend of podman.
func TestPodman(t *testing.T) {
	p := setUpPodman(t)
	early := p.start("early")
	untouched(t, early)
	p.install(t)
	captured(t, early)
	later := p.start("later")
	captured(t, later)
	p.noted(t, 2)
	p.must("rm", "--force", "--time", "0", "later")
	p.must("rm", "--force", "--time", "0", "early")
	p.noted(t, 0)
	p.kernelHolds(t, 0)
}
