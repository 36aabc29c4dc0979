package world

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
)

// MachineName is what the node itself goes by among the pods.
const MachineName = "machine"

// Machine puts an application on the node itself, as on a virtual machine where there are no pods. A dnsd
// started from now on sees the application's resolv.conf, and systemd-resolved's with the servers given,
// as those of its machine; without such servers there is no systemd-resolved.
func (w *World) Machine(s PodSpec, behindStub []netip.Addr) (*Pod, error) {
	s.Name = MachineName
	s.fill()
	p := &Pod{PodSpec: s, NS: w.Node, Addresses: nodeUplink, world: w}
	var behind strings.Builder
	for _, server := range behindStub {
		fmt.Fprintln(&behind, "nameserver", server)
	}
	if err := os.WriteFile(w.behindStub(), []byte(behind.String()), 0o644); err != nil {
		return nil, err
	}
	if err := p.startApp(); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pods[s.Name] = p
	return p, nil
}

func (w *World) behindStub() string { return w.path("behind-stub.conf") }

// onMachine has dnsd see the files of Machine, if there is one, in a mount namespace of its own.
func (w *World) onMachine(cmd *exec.Cmd) *exec.Cmd {
	if w.pods[MachineName] == nil {
		return cmd
	}
	const see = `mount --bind "$1" /etc/resolv.conf && mount -t tmpfs none /run &&
		if test -s "$2"; then mkdir -p /run/systemd/resolve && cp "$2" /run/systemd/resolve/resolv.conf; fi &&
		shift 2 && exec "$@"`
	args := []string{"--mount", "--propagation", "private", "sh", "-c", see, "sh", w.resolvConf(MachineName), w.behindStub()}
	wrapped := exec.Command("unshare", append(args, cmd.Args...)...)
	wrapped.Env = cmd.Env
	return wrapped
}
