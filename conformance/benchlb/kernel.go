package main

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/nodens-dns/nodens/conformance/sandbox"
	"github.com/nodens-dns/nodens/dnsd/lb"
	"github.com/nodens-dns/nodens/dnsd/mesh"
	"github.com/nodens-dns/nodens/ebpf"
)

// kernel is nodens without dnsd's other parts: what compiles what a control plane says, and what writes it
// to a datapath that is attached to the group.
type kernel struct {
	options  ebpf.Options
	datapath *ebpf.Datapath
	counting *counting
	balancer *lb.Balancer
	compiler *mesh.Compiler
}

// counting is the kernel's balancing maps, with a count of what is written.
type counting struct {
	*ebpf.Services
	last ebpf.Changes
}

// Apply is Services.Apply.
func (c *counting) Apply(f map[ebpf.Frontend]string, s map[string]ebpf.Service) (changes ebpf.Changes, err error) {
	c.last, err = c.Services.Apply(f, s)
	return c.last, err
}

// newKernel attaches a datapath. What it could make is closed with the kernel, also after an error.
func newKernel(g *group) (*kernel, error) {
	bpffs, err := sandbox.MountBPFFS()
	if err != nil {
		return nil, err
	}
	k := &kernel{options: ebpf.Options{CgroupPath: g.dir, PinPath: filepath.Join(bpffs, filepath.Base(g.dir))}}
	// The attaching makes sure that it is seen, by a socket of this process.
	if err := g.enter(); err != nil {
		return k, err
	}
	if k.datapath, err = ebpf.Ensure(k.options); err != nil {
		return k, err
	}
	services, err := k.datapath.Services()
	if err != nil {
		return k, err
	}
	k.counting = &counting{Services: services}
	k.balancer = lb.New(k.counting, lb.Options{})
	vips, err := mesh.OpenVIPs("", netip.MustParsePrefix("240.240.0.0/16"), netip.MustParsePrefix("2001:2::/48"))
	if err != nil {
		return k, err
	}
	k.compiler = mesh.NewCompiler(vips, []string{"xds"})
	return k, g.leave()
}

// enrol makes a lane's pod one of nodens'.
func (k *kernel) enrol(l *lane) error {
	cookie, err := l.pod.Cookie()
	if err != nil {
		return err
	}
	return k.datapath.PutPod(cookie, ebpf.Pod{Addr4: netip.MustParseAddr("10.200.0.2"), LB: true})
}

func (k *kernel) close() error {
	errs := []error{ebpf.Remove(k.options)}
	if k.datapath != nil {
		errs = append(errs, k.datapath.Close())
	}
	return errors.Join(errs...)
}

// Change is Services.Change.
func (c *counting) Change(f map[ebpf.Frontend]string, s map[string]ebpf.Service) (changes ebpf.Changes, err error) {
	c.last, err = c.Services.Change(f, s)
	return c.last, err
}

// update is what it took to bring the kernel up to date with an input.
type update struct {
	compile, apply time.Duration
	writes         int // rows of maps
}

func (k *kernel) update(in mesh.Input) (u update, err error) {
	start := time.Now()
	k.compiler.Take(in)
	plan := k.compiler.Compile()
	u.compile = time.Since(start)
	start = time.Now()
	_, err = k.balancer.Apply(plan)
	u.apply = time.Since(start)
	c := k.counting.last
	u.writes = c.Frontends + c.Services + c.Backends
	return u, err
}

// memory is what the BPF maps take that this process holds open, in bytes (fdinfo's memlock).
func memory() (bytes int64, err error) {
	seen := make(map[string]bool)
	files, err := filepath.Glob("/proc/self/fdinfo/*")
	if err != nil {
		return 0, err
	}
	for _, file := range files {
		fields, err := fdinfo(file)
		if err != nil {
			continue // closed meanwhile
		}
		id := fields["map_id"]
		if id == "" || seen[id] {
			continue
		}
		seen[id] = true
		n, err := strconv.ParseInt(fields["memlock"], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: memlock: %w", file, err)
		}
		bytes += n
	}
	return bytes, nil
}

func fdinfo(file string) (map[string]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	fields := make(map[string]string)
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if key, value, ok := strings.Cut(lines.Text(), ":"); ok {
			fields[key] = strings.TrimSpace(value)
		}
	}
	return fields, lines.Err()
}
