package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/nodens-dns/nodens/conformance/app"
	"github.com/nodens-dns/nodens/conformance/world"
)

// The server has one core and everything else the other: the clients, the nameserver beyond, this
// program.
const (
	serverCPU = 0
	clientCPU = 1
)

// stage is where the servers are measured: a world whose node has an address for each peer, and a pod
// for each server. A peer's pod has the peer's address in its resolv.conf and reaches it through its
// veth pair, as pods reach a DNS cache on their node; nodens' pod has the nameserver beyond, and is
// captured.
type stage struct {
	*world.World
	dir    string
	cgroup *os.File
	pods   map[string]*world.Pod
	// node and internet start processes there.
	node, internet thread
	// upstream is the nameserver beyond the node: an NSD of its own.
	upstream *process
	known    *names // to it

	// bin and inKernel are for nodens with its answers in the kernel: a stage of its own, once it is needed.
	bin      world.Binaries
	inKernel *stage
}

// upstreamAddr is the nameserver beyond the node, which everybody forwards to and which is in the
// resolv.conf of nodens' pod. The world's own nameservers are made for clarity, not for speed.
var upstreamAddr = netip.MustParseAddr("10.96.0.53")

// running is a server that answers.
type running struct {
	*driver
	at   *stage
	pid  int
	pod  *world.Pod
	addr netip.Addr // as the pod asks it
	stop func()
}

// newStage makes the world. bin has the programs, dir is for files; the caller owns dir. config is what
// dnsd's says beside the world's own.
func newStage(programs world.Binaries, dir string, config map[string]any) (*stage, error) {
	bin, err := pinned(programs, filepath.Join(dir, "bin"))
	if err != nil {
		return nil, err
	}
	w, err := world.New(world.Options{Bin: bin, Label: "bench", Config: config})
	if err != nil {
		return nil, err
	}
	s := &stage{World: w, bin: programs, dir: dir, pods: map[string]*world.Pod{}, node: stay(w.Node), internet: stay(w.Internet)}
	if s.cgroup, err = os.Open(w.Cgroup()); err == nil {
		err = s.furnish()
	}
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// furnish makes the peers' addresses and configures dnsd.
func (s *stage) furnish() error {
	if err := s.Configure(map[string]any{"xds": nil}); err != nil {
		return err
	}
	return s.Node.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		for i := range drivers {
			addr, err := netlink.ParseAddr(peerAddr(i).String() + "/32")
			if err != nil {
				return err
			}
			if err := netlink.AddrAdd(lo, addr); err != nil {
				return err
			}
		}
		return nil
	})
}

// peerAddr is the i-th driver's address on the node, of the range that NodeLocal DNSCache uses.
func peerAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{169, 254, 20, byte(10 + i)}) }

// serveUpstream starts the nameserver beyond: it knows the outside names, and the cluster's too, as the
// cluster's own DNS would.
func (s *stage) serveUpstream(set *names) error {
	i := slices.IndexFunc(drivers, func(d driver) bool { return d.program == "nsd" })
	program, err := find(&drivers[i])
	if err != nil {
		return err
	}
	j := job{addr: upstreamAddr, set: set, program: program}
	if j.dir, err = os.MkdirTemp(s.dir, "upstream-"); err != nil {
		return err
	}
	argv, err := nsd(j)
	if err != nil {
		return err
	}
	s.known = set
	s.upstream, err = s.internet.start(exec.Command(argv[0], argv[1:]...), j.dir)
	return err
}

// of is the stage that a driver is measured on.
func (s *stage) of(d *driver) (*stage, error) {
	if !d.inKernel {
		return s, nil
	}
	if s.inKernel != nil {
		return s.inKernel, nil
	}
	k, err := newStage(s.bin, filepath.Join(s.dir, "in-kernel"), map[string]any{"kernelAnswers": true})
	if err != nil {
		return nil, err
	}
	if err := k.serveUpstream(s.known); err != nil {
		return nil, errors.Join(err, k.close())
	}
	s.inKernel = k
	return k, nil
}

func (s *stage) close() error {
	if s.inKernel != nil {
		defer func() { _ = s.inKernel.close() }()
	}
	if s.upstream != nil {
		s.upstream.end()
	}
	close(s.node)
	close(s.internet)
	if s.cgroup != nil {
		_ = s.cgroup.Close()
	}
	return s.Close()
}

// pinned makes a folder with the programs of bin, of which dnsd runs on the server's core.
func pinned(bin world.Binaries, dir string) (world.Binaries, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	for _, name := range []string{"cnitool", "bridge", "host-local", "nodens"} {
		if err := os.Symlink(filepath.Join(string(bin), name), filepath.Join(dir, name)); err != nil {
			return "", err
		}
	}
	script := fmt.Sprintf("#!/bin/sh\nexec taskset -c %d %s \"$@\"\n", serverCPU, filepath.Join(string(bin), "dnsd"))
	return world.Binaries(dir), os.WriteFile(filepath.Join(dir, "dnsd"), []byte(script), 0o755)
}

// start starts the i-th driver's server with a set of names and waits until it answers the last of them.
func (s *stage) start(ctx context.Context, i int, set *names) (*running, error) {
	d := &drivers[i]
	s, err := s.of(d)
	if err != nil {
		return nil, err
	}
	r := &running{driver: d, at: s, addr: peerAddr(i)}
	if d.command == nil {
		r.addr = upstreamAddr
		err = s.startNodens(ctx, r, set)
	} else {
		err = s.startPeer(r, set)
	}
	if err == nil {
		err = s.answers(ctx, r, set)
	}
	if err != nil {
		if r.stop != nil {
			r.stop()
		}
		return nil, fmt.Errorf("start %s: %w", d.name, err)
	}
	return r, nil
}

// pod returns a server's pod, making it if there is none yet.
func (s *stage) pod(r *running) (*world.Pod, error) {
	if p := s.pods[r.name]; p != nil {
		return p, nil
	}
	name := strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
			return c
		}
		return -1
	}, strings.ToLower(r.name))
	p, err := s.NewPod(world.PodSpec{
		Name: name, Namespace: clientNamespace, Nameservers: []netip.Addr{r.addr}, Plain: r.command != nil,
	})
	if err == nil {
		s.pods[r.name] = p
	}
	return p, err
}

func (s *stage) startNodens(ctx context.Context, r *running, set *names) (err error) {
	text, err := os.ReadFile(set.path("manifest.yaml"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.ManifestDir(), "services.yaml"), text, 0o644); err != nil {
		return err
	}
	if err := s.StartDnsd(false); err != nil {
		return err
	}
	r.stop = func() { _ = s.SignalDnsd(syscall.SIGTERM) }
	if r.pid, err = s.dnsdPID(); err != nil {
		return err
	}
	return until(ctx, 5*time.Minute, func() error {
		status, err := s.Admin().Status(ctx)
		if err == nil && status.NotReady != "" {
			err = errors.New(status.NotReady)
		}
		if err == nil && status.Names != len(set.services) {
			err = fmt.Errorf("knows %d names of %d: %v", status.Names, len(set.services), status.Problems)
		}
		return err
	})
}

// dnsdPID finds dnsd among the processes of the world's cgroup.
func (s *stage) dnsdPID() (int, error) {
	text, err := os.ReadFile(filepath.Join(s.Cgroup(), "cgroup.procs"))
	if err != nil {
		return 0, err
	}
	for pid := range strings.FieldsSeq(string(text)) {
		if exe, _ := os.Readlink("/proc/" + pid + "/exe"); filepath.Base(exe) == "dnsd" {
			return strconv.Atoi(pid)
		}
	}
	return 0, errors.New("no dnsd runs in the world's cgroup")
}

// startPeer starts a peer on the node, outside the world's cgroup: no program of nodens sees its sockets.
func (s *stage) startPeer(r *running, set *names) (err error) {
	program, err := find(r.driver)
	if err != nil {
		return err
	}
	j := job{addr: r.addr, upstream: upstreamAddr, set: set, program: program}
	if j.dir, err = os.MkdirTemp(s.dir, r.program+"-"); err != nil {
		return err
	}
	var api *kube
	if r.kube {
		if api, err = s.kube(set); err != nil {
			return err
		}
		j.api = api.url()
	}
	argv, err := r.command(j)
	if err != nil {
		return err
	}
	cmd := exec.Command("taskset", append([]string{"-c", strconv.Itoa(serverCPU)}, argv...)...)
	p, err := s.node.start(cmd, j.dir)
	if err != nil {
		return err
	}
	r.pid = cmd.Process.Pid
	r.stop = func() {
		p.end()
		if api != nil {
			api.close()
		}
	}
	return nil
}

func (s *stage) kube(set *names) (k *kube, err error) {
	err = s.Node.Do(func() error {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err == nil {
			k, err = serveKube(ln, set)
		}
		return err
	})
	return k, err
}

// answers waits until the server answers its pod.
func (s *stage) answers(ctx context.Context, r *running, set *names) (err error) {
	if r.pod, err = s.pod(r); err != nil {
		return err
	}
	question := app.Question{Name: set.services[len(set.services)-1].fqdn(), Timeout: time.Second}
	if !r.holds {
		question.Name, _ = outside(0)
	}
	err = until(ctx, 2*time.Minute, func() error {
		reply, err := r.pod.Dig(question)
		if err == nil && len(reply.Answer) == 0 {
			err = fmt.Errorf("answers %s to %s", reply.Rcode, question.Name)
		}
		if e := syscall.Kill(r.pid, 0); err != nil && e != nil {
			err = fmt.Errorf("it ended: %w", err)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("%w\n%s", err, s.outputs(r))
	}
	return nil
}

// outputs is what a server wrote while it failed.
func (s *stage) outputs(r *running) string {
	if r.command == nil {
		return s.DnsdLog()
	}
	logs, _ := filepath.Glob(filepath.Join(s.dir, r.program+"-*", "output"))
	var b strings.Builder
	for _, log := range logs {
		text, _ := os.ReadFile(log)
		b.Write(text)
	}
	return b.String()
}
