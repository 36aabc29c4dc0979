// Package pods gets from attachment files to listening sockets and a row in the kernel.
//
// The files say which pods there are; one that is gone is gone with its namespace, or when the bell says
// so. Run lists them when it starts, is told of changes by the bell and by the folder, and compares all of
// it every few seconds; so a start, a restart and a missed ring are the same thing. One goroutine owns the
// pods and is the only writer of the kernel's rows; whatever may block (opening a path, serving a socket,
// waiting for a caller) happens in others.
//
// Another dnsd's sockets can be inherited, and ours be left to another one: see [Pods.Sockets].
//
// A pod is captured when each of its nameservers has a UDP and a TCP listener on the pod's own address,
// inside the pod's network namespace, and the kernel has the row that turns queries to them. When dnsd
// goes, the sockets close and the row stays: the kernel then lets every query go where it was sent, and
// the next dnsd takes the same ports. Our sockets and handles keep a namespace alive, so a pod that goes
// has them closed before its DEL is answered.
//
// A pod whose annotations opt it out gets a row without listeners: its queries are left
// alone, and connections to virtual addresses it learnt elsewhere are still balanced.
package pods

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netns"

	"github.com/nodens-dns/nodens/cni/attach"
	"github.com/nodens-dns/nodens/dnsd/serve"
	"github.com/nodens-dns/nodens/ebpf"
)

// sweepEvery bounds how long something missed stays missed: a file, a removal, a namespace that is gone.
const sweepEvery = 5 * time.Second

// Options are what Pods works with.
type Options struct {
	// Dir holds the attachment files, Bell is the path of the bell's socket.
	Dir, Bell string
	// Kernel takes the rows and the listeners: an *ebpf.Datapath.
	Kernel kernel
	// Answers, if not nil, has the kernel answer what it can: *ebpf.Answers, counted.
	Answers Answers
	// Light leaves pods without listeners, unless their annotation says otherwise: only the kernel answers them.
	Light bool
	// Serve answers on the listeners: a *serve.Server.
	Serve server
	// Nameservers are captured in pods whose attachment names none.
	Nameservers []netip.Addr
	// ClusterDomain is the cluster's own DNS domain, without the final dot.
	ClusterDomain string
	// Host, if not nil, says what the node's own namespace is like: its interface, addresses and
	// nameservers. Its processes are then served as a pod's are. It is called at every sweep and must not
	// block for long.
	Host func() (attach.Attachment, error)
	// Changed is called when what Nameservers or Namespaces returns has changed, and once when the
	// attachment files have been read for the first time, changed or not. It must not block; nil means
	// nobody asks.
	Changed func()
	// Inherited are another dnsd's sockets, which become the listeners of the pods they were opened for, or are
	// closed; Doorbell is its bell, or nil.
	Inherited []Socket
	Doorbell  *os.File
	// Settled is called once, when [Pods.Settled] begins to hold. It must not block; nil means nobody asks.
	Settled func()
	// Log is told of changes of state; nil means slog.Default.
	Log *slog.Logger
}

type kernel interface {
	PutPod(cookie uint64, p ebpf.Pod) error
	DeletePod(cookie uint64) error
	Pods() (map[uint64]ebpf.Pod, error)
	PutListener(cookie uint64, nameserver int, proto ebpf.Protocol, fd uintptr) error
	ListenerAlive(cookie uint64, nameserver int, proto ebpf.Protocol) (bool, error)
}

// Answers has a pod's queries answered in the kernel.
type Answers interface {
	Asker(parts ...string) uint64
	Attach(cookie uint64, ifindex uint32, light bool) error // in the pod's namespace
	Check(cookie uint64, ifindex uint32, light bool) error
	Detach(cookie uint64) error
	Attached() ([]uint64, error)
}

type server interface {
	ServeUDP(u *serve.UDPSocket, c *serve.Client, ended func(error))
	ServeTCP(ln *serve.TCPListener, c *serve.Client, ended func(error))
	Retire(pass func(c *serve.Client, conn *net.TCPConn, early []byte))
}

// Pods keeps listeners and rows equal to the attachment files. Make one with New.
type Pods struct {
	o     Options
	log   *slog.Logger
	queue chan func() // work for the goroutine that owns what follows
	ended chan struct{}

	// Owned by the goroutine in Run.
	home    netns.NsHandle // dnsd's own network namespace
	own     uint64         // its cookie
	pods    map[attach.Key]*pod
	leaving map[attach.Key]*pod // forgotten, while something of them still runs
	rows    map[uint64]ebpf.Pod // what the kernel holds, as far as known
	lost    map[uint64]ebpf.Pod // rows of pods whose files are lost, from before this start
	files   attach.Reader       // of attachments
	broken  []Problem           // files that cannot be read, and what else the last sweep could not do
	swept   bool                // the files have been read
	estate  estate              // what is inherited, as far as no pod has claimed it

	settled   atomic.Bool
	releasing sync.WaitGroup // what still goes on in pods that are released
	bell      atomic.Pointer[attach.Bell]
	view      atomic.Pointer[view]
}

// New returns Pods that do nothing yet; Run must follow, once.
func New(o Options) *Pods {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	p := &Pods{
		o: o, log: o.Log,
		queue: make(chan func()), ended: make(chan struct{}), home: netns.None(),
		pods: map[attach.Key]*pod{}, leaving: map[attach.Key]*pod{},
	}
	if p.o.Changed == nil {
		p.o.Changed = func() {}
	}
	p.estate = inherit(o.Inherited)
	p.view.Store(&view{})
	return p
}

// Run adopts every pod that has an attachment file, then follows the files until ctx is done and whoever has
// rung is answered. It fails only when it cannot begin, or can no longer hear the bell. What is open stays
// open, and is served on, until Close or Retire; one of them must follow.
func (p *Pods) Run(ctx context.Context) error {
	defer close(p.ended)
	var err error
	if p.rows, err = p.o.Kernel.Pods(); err != nil {
		return fmt.Errorf("read the kernel's pods: %w", err)
	}
	p.lost = p.missing()
	if p.home, p.own, err = home(); err != nil {
		return err
	}
	bell, err := p.hang()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	heard, end := context.WithCancel(context.WithoutCancel(ctx))
	var helpers sync.WaitGroup
	helpers.Go(func() {
		defer end()
		defer cancel()
		err = p.hear(ctx, bell)
	})
	helpers.Go(func() { p.watch(ctx) })
	p.loop(heard, ctx)
	helpers.Wait()
	return err
}

// Close closes every socket and leaves the rows. Run must have returned.
func (p *Pods) Close() {
	for _, q := range p.pods {
		q.close()
	}
	for _, q := range p.pods {
		q.left()() // who is in there comes home yet
	}
	p.releasing.Wait()
	p.estate.closeAll()
	if p.o.Doorbell != nil {
		_ = p.o.Doorbell.Close() // if nobody has hung it; else it is closed
	}
	_ = p.home.Close()
}

// hang makes the bell, or goes on with the one that is inherited.
func (p *Pods) hang() (*attach.Bell, error) {
	if p.o.Doorbell == nil {
		return attach.Listen(p.o.Bell)
	}
	defer func() { _ = p.o.Doorbell.Close() }()
	return attach.Inherit(p.o.Doorbell)
}

// hear answers the bell until ctx is done, and hangs up another one when somebody has taken it away.
func (p *Pods) hear(ctx context.Context, bell *attach.Bell) error {
	for {
		p.bell.Store(bell)
		there, stop := context.WithCancel(ctx)
		var looking sync.WaitGroup
		looking.Go(func() {
			tick := time.NewTicker(sweepEvery)
			defer tick.Stop()
			for there.Err() == nil {
				select {
				case <-there.Done():
				case <-tick.C:
					if attach.Mute(p.o.Bell) {
						stop()
					}
				}
			}
		})
		err := bell.Serve(there, p.answer)
		stop()
		looking.Wait()
		if err != nil || ctx.Err() != nil {
			return err
		}
		if bell, err = attach.Listen(p.o.Bell); err != nil {
			return err
		}
		p.log.Warn("the bell's socket was removed, or another's was there; it is made anew", "bell", p.o.Bell)
	}
}

// loop is the owner's, until ctx is done; when stopping is, it makes nothing new of its own.
func (p *Pods) loop(ctx, stopping context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	p.sweep()
	p.o.Changed()
	for {
		select {
		case <-ctx.Done():
			return
		case f := <-p.queue:
			f()
		case <-tick.C:
			if stopping.Err() == nil {
				p.sweep()
			}
		}
	}
}

// post has the owner run f, and reports whether it will: not when Run has ended.
func (p *Pods) post(f func()) bool {
	select {
	case p.queue <- f:
		return true
	case <-p.ended:
		return false
	}
}

// answer is the bell's. It returns when what was rung for is done or has failed.
func (p *Pods) answer(ctx context.Context, op attach.Op, key attach.Key) error {
	done := make(chan error, 1)
	asked := p.post(func() {
		switch op {
		case attach.OpAdd:
			p.add(key, done)
		case attach.OpDel:
			p.release(key, done)
		case attach.OpCheck:
			done <- p.check(key)
		default:
			done <- fmt.Errorf("dnsd does not know %q: run plugin and daemon of one release", op)
		}
	})
	if !asked {
		return errors.New("dnsd is stopping")
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// add adopts the attachment of this key and tells done when that is settled.
func (p *Pods) add(key attach.Key, done chan<- error) {
	a, err := attach.Find(p.o.Dir, key)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			p.release(key, nil)
		}
		done <- err
		return
	}
	p.adopt(a, done)
}

// check answers whether the pod is treated as its attachment wants, by us and by the kernel.
func (p *Pods) check(key attach.Key) error {
	q := p.pods[key]
	switch {
	case q == nil:
		return fmt.Errorf("%s has no attachment file that dnsd has read", key)
	case q.state == Failed, q.state == Opening:
		return fmt.Errorf("%s is %s: %s", key, q.state, q.reason)
	}
	for i, l := range q.listeners {
		for _, proto := range []ebpf.Protocol{ebpf.UDP, ebpf.TCP} {
			if alive, err := p.o.Kernel.ListenerAlive(q.cookie, i, proto); err != nil || !alive {
				return errors.Join(fmt.Errorf("%s: the kernel has no listener for %s (IP protocol %d)", key, l.nameserver, proto), err)
			}
		}
	}
	return nil
}
