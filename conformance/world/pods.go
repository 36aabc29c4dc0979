package world

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"net/rpc"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/nodens-dns/nodens/conformance/app"
	"github.com/nodens-dns/nodens/conformance/sandbox"
)

// PodSpec says what a pod is like.
type PodSpec struct {
	Name, Namespace string
	// Nameservers, Searches and Options are what its resolv.conf says and, unless Silent, what the
	// runtime tells the plugin. Without any the node's first nameserver of each of the pod's families,
	// and what Kubernetes gives a pod of the namespace.
	Nameservers []netip.Addr
	Searches    []string
	Options     []string
	// Silent runtimes tell the plugin nothing about DNS.
	Silent bool
	// IPv6 gives the pod an address of either family, otherwise it has only an IPv4 one. Plain pods
	// always have both.
	IPv6 bool
	// Plain pods are made by a chain without nodens.
	Plain bool
	// Chain is the network written by WriteChain that the pod is of; empty means by IPv6 and Plain.
	Chain string
	// Annotations are passed as the runtime passes them.
	Annotations map[string]string
}

// Pod is a pod: a network namespace made by the CNI plugins, and an application in it.
type Pod struct {
	PodSpec
	NS *sandbox.NS
	// Addresses are what the plugins gave it.
	Addresses []netip.Prefix
	// Result is what the last plugin printed.
	Result []byte

	world  *World
	canary string
	app    *rpc.Client
	proc   *exec.Cmd
}

// DefaultNamespace is a pod's namespace unless its spec says otherwise.
const DefaultNamespace = "default"

func (s *PodSpec) fill() {
	if s.Namespace == "" {
		s.Namespace = DefaultNamespace
	}
	if len(s.Nameservers) == 0 {
		s.Nameservers = []netip.Addr{Nameservers[0]}
		if s.IPv6 {
			s.Nameservers = append(s.Nameservers, Nameservers[1])
		}
	}
	if s.Searches == nil {
		s.Searches = []string{s.Namespace + ".svc.cluster.local", "svc.cluster.local", "cluster.local"}
	}
	if s.Options == nil {
		s.Options = []string{"ndots:5"}
	}
}

func (s *PodSpec) resolvConf() string {
	var b strings.Builder
	for _, ns := range s.Nameservers {
		fmt.Fprintln(&b, "nameserver", ns)
	}
	fmt.Fprintf(&b, "search %s\noptions %s\n", strings.Join(s.Searches, " "), strings.Join(s.Options, " "))
	return b.String()
}

// NewPod makes a pod's namespace, attaches it with cnitool as a runtime would, and starts the
// application. A deleted pod stays in the books, to be asked whether it is Gone, until another takes its
// name.
func (w *World) NewPod(s PodSpec) (*Pod, error) {
	p, err := w.BarePod(s)
	if err != nil {
		return nil, err
	}
	if err := p.Attach(); err != nil {
		return nil, errors.Join(err, p.Delete())
	}
	if err := p.startApp(); err != nil {
		return nil, errors.Join(err, p.Delete())
	}
	return p, nil
}

// BarePod makes a pod's namespace only.
func (w *World) BarePod(s PodSpec) (*Pod, error) {
	s.fill()
	ns, err := sandbox.NewNetns(Prefix + w.ID + "-" + s.Name)
	if err != nil {
		return nil, err
	}
	p := &Pod{PodSpec: s, NS: ns, world: w, canary: canaryPrefix + randomID()}
	if err := w.Node.Do(func() error { return p.plantCanary() }); err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	w.mu.Lock()
	w.pods[s.Name] = p
	w.mu.Unlock()
	return p, nil
}

// Pod returns a pod made before.
func (w *World) Pod(name string) (*Pod, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p := w.pods[name]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("there is no pod %q", name)
}

// PodNames lists the pods there are.
func (w *World) PodNames() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(maps.Keys(w.pods))
}

// The canary is a veth pair that no plugin knows of, with one end in the pod: the kernel removes it
// when the pod's namespace is really gone, which a forgotten socket would prevent.
const canaryPrefix = "cny-"

func (p *Pod) plantCanary() error {
	f, err := os.Open(p.NS.Path())
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	veth := netlink.NewVeth(netlink.LinkAttrs{Name: p.canary})
	veth.PeerName = "canary"
	veth.PeerNamespace = netlink.NsFd(int(f.Fd()))
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("pod %s: plant the canary: %w", p.Name, err)
	}
	return nil
}

// Gone returns nil once the kernel has destroyed the deleted pod's namespace.
func (p *Pod) Gone() error {
	return p.world.Node.Do(func() error {
		_, err := netlink.LinkByName(p.canary)
		var missing netlink.LinkNotFoundError
		if errors.As(err, &missing) {
			return nil
		}
		if err != nil {
			return err
		}
		return fmt.Errorf("the network namespace of pod %s is still held", p.Name)
	})
}

func (p *Pod) network() string {
	switch {
	case p.Chain != "":
		return p.world.Network() + "-" + p.Chain
	case p.Plain:
		return p.world.Network() + networkPlain
	case p.IPv6:
		return p.world.Network() + networkDual
	}
	return p.world.Network() + networkIPv4
}

// Attach runs cnitool add.
func (p *Pod) Attach() error {
	out, err := p.cnitool("add")
	if err != nil {
		return err
	}
	p.Result = []byte(out)
	result := &types100.Result{}
	if err := json.Unmarshal(p.Result, result); err != nil {
		return fmt.Errorf("pod %s: result of ADD: %w", p.Name, err)
	}
	p.Addresses = nil
	for _, ip := range result.IPs {
		addr, _ := netip.AddrFromSlice(ip.Address.IP)
		ones, _ := ip.Address.Mask.Size()
		p.Addresses = append(p.Addresses, netip.PrefixFrom(addr.Unmap(), ones))
	}
	return nil
}

// Detach runs cnitool del.
func (p *Pod) Detach() error {
	_, err := p.cnitool("del")
	return err
}

// Check runs cnitool check.
func (p *Pod) Check() error {
	_, err := p.cnitool("check")
	return err
}

// cnitool runs one verb on the node, with the environment a runtime's CNI library would make.
func (p *Pod) cnitool(verb string) (string, error) {
	args := map[string]any{"io.kubernetes.cri.pod-annotations": p.Annotations}
	if !p.Silent {
		args["dns"] = map[string]any{"servers": p.Nameservers, "searches": p.Searches, "options": p.Options}
	}
	capArgs, err := json.Marshal(args)
	if err != nil {
		return "", err
	}
	env := append(p.world.cniEnv(),
		"CAP_ARGS="+string(capArgs),
		fmt.Sprintf("CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=%s;K8S_POD_NAME=%s;K8S_POD_UID=uid-%s", p.Namespace, p.Name, p.Name),
	)
	return p.world.output(env, p.world.bin.path("cnitool"), verb, p.network(), p.NS.Path())
}

// startApp starts the application in the pod's network namespace, with the pod's resolv.conf in a mount
// namespace of its own.
func (p *Pod) startApp() error {
	file := p.world.resolvConf(p.Name)
	if err := os.WriteFile(file, []byte(p.resolvConf()), 0o644); err != nil {
		return err
	}
	cmd := &exec.Cmd{
		Path:        "/proc/self/exe",
		Args:        []string{app.Name},
		Env:         append(os.Environ(), app.ResolvConf+"="+file),
		Stderr:      os.Stderr,
		SysProcAttr: &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS},
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := p.world.start(p.NS, cmd); err != nil {
		return fmt.Errorf("pod %s: start its application: %w", p.Name, err)
	}
	pid := fmt.Appendln(nil, cmd.Process.Pid)
	if err := os.WriteFile(p.world.path(p.Name+".pid"), pid, 0o644); err != nil {
		return err
	}
	p.proc = cmd
	p.app = rpc.NewClient(pipe{out, in})
	return nil
}

type pipe struct {
	io.ReadCloser
	in io.WriteCloser
}

func (p pipe) Write(b []byte) (int, error) { return p.in.Write(b) }
func (p pipe) Close() error                { return errors.Join(p.in.Close(), p.ReadCloser.Close()) }

func (w *World) resolvConf(pod string) string { return w.path(pod + ".resolv.conf") }

// stopApp ends the application and with it every connection it holds.
func (p *Pod) stopApp() {
	if p.app == nil {
		return
	}
	_ = p.app.Close()
	_ = p.proc.Process.Kill()
	_ = p.proc.Wait()
	p.app, p.proc = nil, nil
}

// Delete ends the pod as a runtime does: the application, then DEL, then the namespace.
func (p *Pod) Delete() error {
	p.stopApp()
	err := p.Detach()
	return errors.Join(err, p.Vanish())
}

// Vanish takes the application and the namespace away without any DEL.
func (p *Pod) Vanish() error {
	p.stopApp()
	return p.NS.Close()
}

func call[R any](p *Pod, method string, arg any) (R, error) {
	var out R
	if p.app == nil {
		return out, fmt.Errorf("pod %s has no application", p.Name)
	}
	if err := p.app.Call("App."+method, arg, &out); err != nil {
		return out, fmt.Errorf("pod %s: %w", p.Name, err)
	}
	return out, nil
}

// Dig sends one query from the pod.
func (p *Pod) Dig(q app.Question) (app.Reply, error) { return call[app.Reply](p, "Dig", q) }

// Getent looks a name up with the C library.
func (p *Pod) Getent(name string) (app.Found, error) { return call[app.Found](p, "Getent", name) }

// Lookup looks a name up with Go's resolver, counting queries.
func (p *Pod) Lookup(name string) (app.Found, error) { return call[app.Found](p, "Lookup", name) }

// Connect makes connections from the pod.
func (p *Pod) Connect(t app.Target) (app.Visits, error) { return call[app.Visits](p, "Connect", t) }

// Talk exchanges a line on every connection held under a name.
func (p *Pod) Talk(held string) (app.Visits, error) { return call[app.Visits](p, "Talk", held) }

// Release closes the connections held under a name and says how many there were.
func (p *Pod) Release(held string) (int, error) { return call[int](p, "Release", held) }

// Stub starts a stub resolver there that asks server, and returns when it listens.
func (p *Pod) Stub(listen, server string) error {
	_, err := call[bool](p, "Stub", [2]string{listen, server})
	return err
}

// Garbage throws messages that are no queries at a nameserver over "udp" or "tcp".
func (p *Pod) Garbage(network, server string) (app.Rubbish, error) {
	return call[app.Rubbish](p, "Garbage", [2]string{network, server})
}

// LoadStart begins to do something over and over.
func (p *Pod) LoadStart(l app.Load) error {
	_, err := call[bool](p, "LoadStart", l)
	return err
}

// LoadLook says what a running load has seen so far.
func (p *Pod) LoadLook(name string) (app.Tally, error) { return call[app.Tally](p, "LoadLook", name) }

// LoadStop ends a load and says what it saw.
func (p *Pod) LoadStop(name string) (app.Tally, error) { return call[app.Tally](p, "LoadStop", name) }
