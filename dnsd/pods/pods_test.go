package pods

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/nodens-dns/nodens/cni/attach"
	"github.com/nodens-dns/nodens/conformance/sandbox"
	"github.com/nodens-dns/nodens/dnsd/mesh"
	"github.com/nodens-dns/nodens/dnsd/names"
	"github.com/nodens-dns/nodens/dnsd/serve"
	"github.com/nodens-dns/nodens/dnsd/upstream"
	"github.com/nodens-dns/nodens/ebpf"
)

// The sandbox ends the threads it has sent into a namespace. The process's first thread cannot be ended
// and would keep the namespace alive for good; so nobody but the main goroutine may use it.
func init() { runtime.LockOSThread() }

// patience is far more than anything here takes.
const patience = 20 * time.Second

const (
	server4 = "10.96.0.10"
	server6 = "fd96::10"
)

var (
	ours   = netip.MustParseAddr("240.240.0.7")  // what dnsd answers for vip.example.com
	theirs = netip.MustParseAddr("198.51.100.9") // what the nameserver answers for any name
)

// node is a node: the real kernel half attached to the test's own cgroup, a nameserver in a namespace
// of its own, and a dnsd that can be stopped and started.
type node struct {
	t        testing.TB
	kernel   *ebpf.Datapath
	options  Options
	infra    *sandbox.NS
	asked    chan asked // questions the nameserver got; those it cannot hold are not counted
	pods     *Pods
	freeze   func() // ends Run
	stop     func() // and closes everything
	networks int
	deaf     atomic.Bool // serving a socket fails at once
}

// fragile is the real server, when it is not deaf.
type fragile struct {
	*serve.Server
	deaf *atomic.Bool
}

func (f *fragile) ServeUDP(u *serve.UDPSocket, c *serve.Client, ended func(error)) {
	if f.deaf.Load() {
		go ended(errInjected)
		return
	}
	f.Server.ServeUDP(u, c, ended)
}

// asked is one question the nameserver got.
type asked struct {
	name string
	from netip.AddrPort
	tcp  bool
}

func newNode(t testing.TB) *node {
	sandbox.Root(t)
	cgroup := sandbox.Cgroup(t)
	kernel, err := ebpf.Ensure(ebpf.Options{CgroupPath: cgroup, PinPath: sandbox.Pins(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = kernel.Close() })
	beat(t, kernel)
	dir := t.TempDir()
	n := &node{
		t: t, kernel: kernel, infra: sandbox.Netns(t),
		asked: make(chan asked, 100), stop: func() {},
		options: Options{
			Dir: filepath.Join(dir, "attachments"), Bell: filepath.Join(dir, "bell.sock"),
			Kernel: kernel, ClusterDomain: "cluster.local", Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		},
	}
	t.Cleanup(func() { n.stop() })
	return n
}

// beat keeps the heart beating until the test ends.
func beat(t testing.TB, kernel *ebpf.Datapath) {
	kernel.Beat()
	tick, done := time.NewTicker(100*time.Millisecond), make(chan struct{})
	var heart sync.WaitGroup
	heart.Go(func() {
		for {
			select {
			case <-tick.C:
				kernel.Beat()
			case <-done:
				return
			}
		}
	})
	t.Cleanup(func() {
		tick.Stop()
		close(done)
		heart.Wait()
	})
}

// start starts dnsd; it ends with stop, or with the test.
func (n *node) start() {
	n.t.Helper()
	n.launch(n.options)
	n.eventually("the bell is there", func() error {
		return n.ring(attach.OpDel, attach.Key{ContainerID: "nobody", IfName: "eth0"})
	})
}

// launch starts a dnsd with these options, beside one that runs already.
func (n *node) launch(o Options) {
	table := names.Build(&mesh.Plan{Names: []*mesh.Name{{
		Host: "vip.example.com", Source: "file", Object: "test", Virtual: true, Addr4: []netip.Addr{ours},
	}}}, names.Options{})
	server := serve.New(serve.Options{Upstream: upstream.New(upstream.Options{})})
	server.Store(table)
	o.Serve = &fragile{server, &n.deaf}
	pods := New(o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- pods.Run(ctx) }()
	n.pods = pods
	n.freeze = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			n.t.Errorf("Run: %v", err)
		}
	})
	n.stop = sync.OnceFunc(func() {
		n.freeze()
		pods.Close()
	})
}

// sweep has the running dnsd sweep now, and returns when it has.
func (n *node) sweep() {
	done := make(chan struct{})
	n.pods.post(func() { n.pods.sweep(); close(done) })
	<-done
}

func (n *node) ring(op attach.Op, key attach.Key) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return attach.Ring(ctx, n.options.Bell, op, key)
}

// eventually waits until f returns nil.
func (n *node) eventually(what string, f func() error) {
	n.t.Helper()
	deadline := time.Now().Add(patience)
	for err := f(); err != nil; err = f() {
		if time.Now().After(deadline) {
			n.t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(time.Millisecond) // between two looks
	}
}

// pod makes a namespace joined to the nameserver's, and its attachment, which is not written.
func (n *node) pod(name string) (*sandbox.NS, attach.Attachment) {
	n.t.Helper()
	ns := sandbox.Netns(n.t)
	// Every pod has a link of its own, on which both sides have the same addresses.
	if n.networks++; n.networks > 1 {
		n.t.Fatal("the nameserver's namespace has one pod")
	}
	if err := sandbox.Veth("eth0", ns, []string{"10.96.0.5/24", "fd96::5/64"}, n.infra, []string{server4 + "/24", server6 + "/64"}); err != nil {
		n.t.Fatal(err)
	}
	n.nameserver()
	return ns, n.attachment(name, ns)
}

func (n *node) attachment(name string, ns *sandbox.NS) attach.Attachment {
	n.t.Helper()
	inode, err := attach.NetnsInode(ns.Path())
	if err != nil {
		n.t.Fatal(err)
	}
	cookie, err := ns.Cookie()
	if err != nil {
		n.t.Fatal(err)
	}
	return attach.Attachment{
		Version: attach.Version, Network: "pods", ContainerID: name, IfName: "eth0",
		Netns: ns.Path(), NetnsInode: inode, NetnsCookie: cookie,
		PodNamespace: "default", PodName: name, Interface: "eth0",
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.96.0.5/24"), netip.MustParsePrefix("fd96::5/64")},
		DNS:       attach.DNS{Nameservers: []netip.Addr{netip.MustParseAddr(server4), netip.MustParseAddr(server6)}},
		Created:   time.Now().UTC(),
	}
}

// bare is a pod that has only lo: enough to be captured, too little to reach anybody.
func (n *node) bare(name string) (*sandbox.NS, attach.Attachment) {
	n.t.Helper()
	ns := sandbox.Netns(n.t)
	a := n.attachment(name, ns)
	a.Interface = "lo"
	return ns, a
}

func (n *node) write(a attach.Attachment) {
	n.t.Helper()
	if err := attach.Write(n.options.Dir, a); err != nil {
		n.t.Fatal(err)
	}
}

// add writes the attachment and rings, as the plugin does.
func (n *node) add(a attach.Attachment) error {
	n.t.Helper()
	n.write(a)
	return n.ring(attach.OpAdd, a.Key())
}

func (n *node) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

// del removes the attachment and rings.
func (n *node) del(a attach.Attachment) {
	n.t.Helper()
	n.must(attach.Remove(n.options.Dir, a.Key()))
	n.must(n.ring(attach.OpDel, a.Key()))
}

// find returns what List says of the attachment.
func (n *node) find(a attach.Attachment) Pod {
	for _, p := range n.pods.List() {
		if p.Key == a.Key() {
			return p
		}
	}
	return Pod{}
}

// wait waits until the attachment is in this state, with a reason that contains text.
func (n *node) wait(a attach.Attachment, state State, text string) Pod {
	n.t.Helper()
	var p Pod
	n.eventually(a.ContainerID+" is "+string(state), func() error {
		if p = n.find(a); p.State != state || !strings.Contains(p.Reason, text) {
			return errors.New(string(p.State) + ": " + p.Reason)
		}
		return nil
	})
	return p
}

func (n *node) rows() map[uint64]ebpf.Pod {
	n.t.Helper()
	rows, err := n.kernel.Pods()
	n.must(err)
	return rows
}

// nameserver answers every question on the nameserver's addresses until the test ends. A question for
// a name that begins with "silent" is never answered.
func (n *node) nameserver() {
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		from := netip.MustParseAddrPort(w.RemoteAddr().String())
		_, tcp := w.RemoteAddr().(*net.TCPAddr)
		select {
		case n.asked <- asked{q.Question[0].Name, from, tcp}:
		default:
		}
		if strings.HasPrefix(q.Question[0].Name, "silent") {
			return
		}
		r := new(dns.Msg).SetReply(q)
		r.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: theirs.AsSlice()}}
		_ = w.WriteMsg(r)
	})
	for _, addr := range []string{server4, server6} {
		n.must(n.infra.Do(func() error {
			at := net.JoinHostPort(addr, "53")
			udp, err := net.ListenPacket("udp", at)
			if err != nil {
				return err
			}
			tcp, err := net.Listen("tcp", at)
			if err != nil {
				return err
			}
			for _, s := range []*dns.Server{{PacketConn: udp, Handler: handler}, {Listener: tcp, Handler: handler}} {
				started := make(chan struct{})
				s.NotifyStartedFunc = func() { close(started) }
				go func() { _ = s.ActivateAndServe() }()
				<-started
				n.t.Cleanup(func() { _ = s.Shutdown() })
			}
			return nil
		}))
	}
}

// dial connects to at from inside ns.
func dial(ns *sandbox.NS, network, at string) (conn net.Conn, err error) {
	err = ns.Do(func() (err error) {
		conn, err = net.DialTimeout(network, at, patience)
		return err
	})
	return conn, err
}

// query asks for the A record of name and returns the address of the answer. The connection stays open.
func query(conn net.Conn, name string) (netip.Addr, error) {
	_ = conn.SetDeadline(time.Now().Add(patience))
	c := &dns.Conn{Conn: conn}
	q := new(dns.Msg).SetQuestion(name, dns.TypeA)
	if err := c.WriteMsg(q); err != nil {
		return netip.Addr{}, err
	}
	for {
		r, err := c.ReadMsg()
		if err != nil {
			return netip.Addr{}, err
		}
		if r.Id != q.Id {
			continue
		}
		if len(r.Answer) == 0 {
			return netip.Addr{}, errors.New(r.String())
		}
		addr, _ := netip.AddrFromSlice(r.Answer[0].(*dns.A).A.To4())
		return addr, nil
	}
}

// ask is dial, query and close.
func ask(ns *sandbox.NS, network, at, name string) (netip.Addr, error) {
	conn, err := dial(ns, network, at)
	if err != nil {
		return netip.Addr{}, err
	}
	defer func() { _ = conn.Close() }()
	return query(conn, name)
}

// threads fails the test if a thread stays in the namespace of a. Threads that are ended because they
// could not go back take a moment.
func (n *node) threads(a attach.Attachment) {
	n.t.Helper()
	pod := fmt.Sprintf("net:[%d]", a.NetnsInode)
	n.eventually("no thread is left in the pod", func() error {
		tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
		if err != nil {
			return err
		}
		for _, task := range tasks {
			if ns, err := os.Readlink(task); err == nil && ns == pod {
				return errors.New(task + " is " + ns)
			}
		}
		return nil
	})
}
