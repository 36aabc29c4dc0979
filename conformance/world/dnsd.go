package world

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/nodens-dns/nodens/dnsd/admin"
)

// HealthAddress is where dnsd serves health and metrics, on the node.
const HealthAddress = "127.0.0.1:9553"

// pluginConf is nodens' own entry of a chain.
func (w *World) pluginConf() map[string]any {
	return map[string]any{
		"type":         "nodens",
		"capabilities": map[string]bool{"dns": true, "io.kubernetes.cri.pod-annotations": true},
		"nameservers":  []string{Nameservers[0].String()},
		"stateDir":     w.runDir(),
		"bpfPath":      w.Pins(),
		"cgroup":       w.Cgroup(),
	}
}

// The CNI networks of a world, by the suffix of their names. All are on one bridge; host-local keeps its
// books by network, so each gives out a part of its own of the same subnets.
const (
	networkIPv4  = ""       // bridge and nodens; IPv4 only
	networkDual  = "-dual"  // bridge and nodens; both families
	networkPlain = "-plain" // bridge alone; both families
)

func (w *World) bridgeConf(from4, to4, from6 string) map[string]any {
	ranges := []any{[]any{map[string]any{"subnet": PodSubnets[0].String(), "rangeStart": from4, "rangeEnd": to4}}}
	routes := []any{map[string]any{"dst": "0.0.0.0/0"}}
	if from6 != "" {
		ranges = append(ranges, []any{map[string]any{"subnet": PodSubnets[1].String(), "rangeStart": from6}})
		routes = append(routes, map[string]any{"dst": "::/0"})
	}
	return map[string]any{
		"type": "bridge", "bridge": "pods0", "isGateway": true,
		"ipam": map[string]any{"type": "host-local", "dataDir": w.path("ipam"), "ranges": ranges, "routes": routes},
	}
}

// writeConfig writes the CNI networks and dnsd's configuration.
func (w *World) writeConfig() error {
	for suffix, plugins := range map[string][]any{
		networkIPv4:  {w.bridgeConf("10.244.0.10", "10.244.0.99", ""), w.pluginConf()},
		networkDual:  {w.bridgeConf("10.244.0.100", "10.244.0.179", "fd44::1000"), w.pluginConf()},
		networkPlain: {w.bridgeConf("10.244.0.180", "10.244.0.249", "fd44::2000")},
	} {
		name := w.Network() + suffix
		text, err := json.MarshalIndent(map[string]any{"cniVersion": "1.1.0", "name": name, "plugins": plugins}, "", "  ")
		if err != nil {
			return err
		}
		if err := w.writeNetwork(name, text); err != nil {
			return err
		}
	}
	return w.Configure(nil)
}

// WriteNetwork replaces the configuration list of the IPv4 pods' network by a text, whatever it says.
func (w *World) WriteNetwork(text []byte) error { return w.writeNetwork(w.Network(), text) }

// WriteChain writes the configuration list of one more network, for pods that name it: the plugins given,
// with nodens where one is nil.
func (w *World) WriteChain(name string, plugins ...map[string]any) error {
	chain := make([]any, len(plugins))
	for i, p := range plugins {
		if p == nil {
			p = w.pluginConf()
		}
		chain[i] = p
	}
	name = w.Network() + "-" + name
	text, err := json.MarshalIndent(map[string]any{"cniVersion": "1.0.0", "name": name, "plugins": chain}, "", "  ")
	if err != nil {
		return err
	}
	return w.writeNetwork(name, text)
}

// Ipam is the section of a plugin that gives addresses of the subnets from host-local; the gateway of
// each is its first address.
func (w *World) Ipam(subnets ...netip.Prefix) map[string]any {
	var ranges, routes []any
	for _, subnet := range subnets {
		masked := subnet.Masked()
		ranges = append(ranges, []any{map[string]any{"subnet": masked.String()}})
		all := "0.0.0.0/0"
		if masked.Addr().Is6() {
			all = "::/0"
		}
		routes = append(routes, map[string]any{"dst": all})
	}
	return map[string]any{"type": "host-local", "dataDir": w.path("ipam"), "ranges": ranges, "routes": routes}
}

func (w *World) writeNetwork(name string, text []byte) error {
	return os.WriteFile(filepath.Join(w.netDir(), name+".conflist"), text, 0o644)
}

// Configure writes dnsd's configuration: the world's own, with the top-level keys given changed; a nil
// value takes the key away. A running dnsd is not told.
func (w *World) Configure(change map[string]any) error {
	conf := map[string]any{
		"stateDir": w.stateDir(), "runDir": w.runDir(), "bpfPath": w.Pins(), "cgroup": w.Cgroup(),
		"listen": HealthAddress, "clusterDomain": ClusterDomain,
		"file": map[string]any{"dir": w.ManifestDir()},
		"xds": map[string]any{
			"address": ADSAddress, "namespace": DefaultNamespace, "nodeName": "node", "nodeIP": nodeUplink[0].Addr().String(),
		},
	}
	maps.Copy(conf, w.config)
	for k, v := range change {
		conf[k] = v
		if v == nil {
			delete(conf, k)
		}
	}
	text, err := yaml.Marshal(conf)
	if err != nil {
		return err
	}
	return os.WriteFile(w.configFile(), text, 0o644)
}

func (w *World) configFile() string { return w.path("dnsd.yaml") }

// Admin asks the running dnsd.
func (w *World) Admin() *admin.Client { return admin.NewClient(w.AdminSocket()) }

// StartDnsd starts dnsd and waits until it answers; with ready, until it says it is ready, which it is
// when every source has spoken.
func (w *World) StartDnsd(ready bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dnsd != nil && w.dnsd.alive() {
		return errors.New("dnsd runs already")
	}
	cmd := exec.Command(w.Program("dnsd"), "run", "--config", w.configFile())
	cmd.Env = append(os.Environ(), "GORACE=halt_on_error=1 atexit_sleep_ms=0")
	p, err := w.launch(w.Node, w.LogFile(), w.onMachine(cmd))
	if err != nil {
		return err
	}
	w.dnsd = p
	err = Until(time.Minute, func() error {
		if !p.alive() {
			return nil
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		status, err := w.Admin().Status(ctx)
		if err == nil && ready && status.NotReady != "" {
			err = errors.New(status.NotReady)
		}
		return err
	})
	if !p.alive() {
		err = fmt.Errorf("dnsd ended: %w", p.err)
	}
	if err != nil {
		return fmt.Errorf("start dnsd: %w\n%s", err, w.DnsdLog())
	}
	return nil
}

func (w *World) launchDnsd() (*process, error) {
	cmd := exec.Command(w.Program("dnsd"), "run", "--config", w.configFile())
	cmd.Env = append(os.Environ(), "GORACE=halt_on_error=1 atexit_sleep_ms=0")
	return w.launch(w.Node, w.LogFile(), w.onMachine(cmd))
}

// BesideDnsd starts a dnsd beside the one that runs. When that one is ended, the other takes its place in the
// world.
func (w *World) BesideDnsd() (err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.beside, err = w.launchDnsd()
	return err
}

// SignalBeside sends the dnsd beside the one that runs a signal to end by, and waits for the end.
func (w *World) SignalBeside(sig syscall.Signal) error {
	w.mu.Lock()
	p := w.beside
	w.beside = nil
	w.mu.Unlock()
	if p == nil {
		return errors.New("there is no dnsd beside the one that runs")
	}
	return p.end(sig, 20*time.Second)
}

// RelieveDnsd starts a dnsd beside the one that runs, waits until it has taken over, and ends the other one, as
// a rolling update does.
func (w *World) RelieveDnsd() error {
	const sign = `msg="took over"`
	before := strings.Count(w.DnsdLog(), sign)
	if err := w.BesideDnsd(); err != nil {
		return err
	}
	next := w.beside
	err := Until(time.Minute, func() error {
		switch {
		case !next.alive():
			return nil
		case strings.Count(w.DnsdLog(), sign) == before:
			return errors.New("it has not taken over")
		}
		return nil
	})
	if err == nil && !next.alive() {
		err = fmt.Errorf("it has ended: %w", next.err)
	}
	if err != nil {
		return fmt.Errorf("relieve dnsd: %w\n%s", err, w.DnsdLog())
	}
	return w.SignalDnsd(syscall.SIGTERM)
}

// RenewDnsd has dnsd start itself anew, and waits until the first one has ended. The other is a process the
// world knows nothing of.
func (w *World) RenewDnsd() error {
	old, err := w.running()
	if err != nil {
		return err
	}
	if err := old.end(syscall.SIGHUP, time.Minute); err != nil {
		return fmt.Errorf("renew dnsd: %w\n%s", err, w.DnsdLog())
	}
	return nil
}

// SecondDnsd runs another dnsd with the same configuration until it ends, ten seconds at most.
func (w *World) SecondDnsd() (string, error) {
	return w.output(nil, "timeout", "10", w.Program("dnsd"), "run", "--config", w.configFile())
}

// DnsdLog is all that any dnsd of this world has written.
func (w *World) DnsdLog() string {
	text, _ := os.ReadFile(w.LogFile())
	return string(text)
}

func (w *World) running() (*process, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dnsd == nil || !w.dnsd.alive() {
		return nil, fmt.Errorf("dnsd does not run\n%s", w.DnsdLog())
	}
	return w.dnsd, nil
}

// SignalDnsd sends dnsd a signal and, if it is one to end by, waits for the end.
func (w *World) SignalDnsd(sig syscall.Signal) error {
	p, err := w.running()
	if err != nil {
		return err
	}
	switch sig {
	case syscall.SIGCONT:
		return p.cmd.Process.Signal(sig)
	case syscall.SIGSTOP:
		if err := p.cmd.Process.Signal(sig); err != nil {
			return err
		}
		return Until(10*time.Second, p.stopped)
	}
	if err := p.end(sig, 20*time.Second); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.beside != nil {
		w.dnsd, w.beside = w.beside, nil
	}
	return nil
}

// Door is where dnsd hears who would take over.
func (w *World) Door() string { return filepath.Join(w.runDir(), "handover.sock") }

// Dnsd runs one of dnsd's own commands, as an operator would.
func (w *World) Dnsd(args ...string) (string, error) {
	if len(args) > 0 && args[0] == "routes" { // which asks etcd, not the daemon
		return w.output(nil, w.Program("dnsd"), append(args, "--config", w.configFile())...)
	}
	return w.output(nil, w.Program("dnsd"), append(args, "--socket", w.AdminSocket())...)
}

// Get fetches a page from an address of the node.
func (w *World) Get(url string) (status int, body string, err error) {
	return w.fetch(http.MethodGet, url, "")
}

func (w *World) fetch(method, url, text string) (status int, body string, err error) {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (conn net.Conn, err error) {
			err = w.Node.Do(func() error {
				conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
				return err
			})
			return conn, err
		},
	}}
	request, err := http.NewRequest(method, url, strings.NewReader(text))
	if err != nil {
		return 0, "", err
	}
	resp, err := client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	page, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(page), err
}

func (w *World) cniEnv() []string {
	return []string{"CNI_PATH=" + w.pluginDir(), "NETCONFPATH=" + w.netDir()}
}

// CNI runs a verb of cnitool that concerns no pod, status or gc, for the network of IPv4 pods.
func (w *World) CNI(verb string) (string, error) {
	return w.output(w.cniEnv(), w.Program("cnitool"), verb, w.Network(), w.Node.Path())
}

// Plugin runs the plugin itself, without a runtime, with a network configuration on its standard input.
func (w *World) Plugin(env []string, conf string) (string, error) { return w.Run("nodens", env, conf) }

// Run is Plugin for another of the Binaries.
func (w *World) Run(program string, env []string, conf string) (string, error) {
	return w.pipe(append(w.cniEnv(), env...), conf, w.Program(program))
}
