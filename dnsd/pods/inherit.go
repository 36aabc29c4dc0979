package pods

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/nodens-dns/nodens/cni/attach"
	"github.com/nodens-dns/nodens/dnsd/serve"
)

// Socket is one of a pod's sockets on its way from one dnsd to the next. It is the same socket in both: the
// kernel's table of listeners and the pod's row need no change, queries that wait in it are not lost, and as
// long as both have it each query is answered by one of them.
type Socket struct {
	Key        attach.Key
	Nameserver netip.Addr // that it stands for
	Kind       SocketKind
	Early      []byte   `json:",omitempty"` // what has been read of a connection's next query
	File       *os.File `json:"-"`          // whoever has the Socket owns it
}

// SocketKind is what a Socket is.
type SocketKind string

// The kinds of sockets.
const (
	UDP        SocketKind = "udp"
	TCP        SocketKind = "tcp"        // the one that listens
	Connection SocketKind = "connection" // that it has accepted
)

// errNoFile is returned for a connection without a descriptor.
var errNoFile = errors.New("it has no descriptor")

// Sockets returns the listeners of all pods, by descriptors of their own that are the caller's to close. They
// are served on here. Those of a pod that has failed are closed, and not among them. After an error, such as a
// shortage of descriptors, what is returned is not all. Run must have returned.
func (p *Pods) Sockets() (list []Socket, err error) {
	for key, q := range p.pods {
		for _, l := range q.listeners {
			udp, err1 := duplicate(l.udp.Control)
			tcp, err2 := duplicate(l.tcp.Control)
			both := []Socket{
				{Key: key, Nameserver: l.nameserver, Kind: UDP, File: udp}, {Key: key, Nameserver: l.nameserver, Kind: TCP, File: tcp},
			}
			failed := errors.Join(err1, err2)
			if failed == nil {
				list = append(list, both...)
				continue
			}
			closeAll(both)
			if !errors.Is(failed, os.ErrClosed) && !errors.Is(failed, net.ErrClosed) {
				err = errors.Join(err, fmt.Errorf("pod %s: another descriptor of the listeners for %s: %w", q.name(), l.nameserver, failed))
			}
		}
	}
	return list, err
}

// Doorbell returns the bell by a descriptor that is the caller's to close, or nil if there is none. Once Run
// has returned, whoever rings waits until the bell's next owner answers, or the descriptor is closed.
func (p *Pods) Doorbell() (*os.File, error) {
	bell := p.bell.Load()
	if bell == nil {
		return nil, nil
	}
	return bell.File()
}

// Retire leaves the sockets to whoever has got them from Sockets: it reads and accepts no more, answers what
// has been read, and calls pass with each TCP connection when nothing of it is unanswered. pass owns what it
// gets. Retire returns when all is done and everything is closed here. Run must have returned.
func (p *Pods) Retire(pass func(Socket)) {
	type place struct {
		key        attach.Key
		nameserver netip.Addr
	}
	places := map[*serve.Client]place{}
	for key, q := range p.pods {
		for _, l := range q.listeners {
			places[l.client] = place{key, l.nameserver}
		}
	}
	p.o.Serve.Retire(func(c *serve.Client, conn *net.TCPConn, early []byte) {
		defer func() { _ = conn.Close() }()
		at, known := places[c]
		file, err := duplicate(func(f func(uintptr) error) error { return with(conn, f) })
		if err == nil && known { // else the client connects again
			pass(Socket{Key: at.key, Nameserver: at.nameserver, Kind: Connection, Early: early, File: file})
		}
	})
	for _, q := range p.pods {
		q.serving.Wait()
	}
	p.Close()
}

// Resume goes on with a connection that another dnsd has passed on, whose pod is here; it owns s. It reports
// false, and leaves s to the caller, if Run has returned.
func (p *Pods) Resume(s Socket) bool {
	return p.post(func() {
		if err := p.resume(s); err != nil {
			p.log.Warn("a connection that was passed on is closed", "attachment", s.Key, "nameserver", s.Nameserver, "error", err)
		}
	})
}

func (p *Pods) resume(s Socket) error {
	defer func() { _ = s.File.Close() }()
	conn, err := net.FileConn(s.File)
	if err != nil {
		return fmt.Errorf("take over a connection: %w", err)
	}
	if q := p.pods[s.Key]; q != nil {
		for _, l := range q.listeners {
			if tcp, ok := conn.(*net.TCPConn); ok && l.nameserver == s.Nameserver && l.tcp.Add(tcp, s.Early) {
				return nil
			}
		}
	}
	_ = conn.Close()
	return errors.New("its pod has no such listener any more")
}

// Duplicate makes another descriptor of a file's.
func Duplicate(f *os.File) (*os.File, error) {
	return duplicate(func(use func(uintptr) error) error { return with(f, use) })
}

// duplicate makes another descriptor of the one that lend lends.
func duplicate(lend func(func(fd uintptr) error) error) (*os.File, error) {
	file := (*os.File)(nil)
	err := lend(func(fd uintptr) error {
		n, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
		if err == nil {
			file = os.NewFile(uintptr(n), "")
		}
		return err
	})
	if err == nil && file == nil {
		err = errNoFile
	}
	return file, err
}

// estate is what is inherited, by pod.
type estate map[attach.Key]*heritage

// heritage is what one pod inherits.
type heritage []Socket

func inherit(sockets []Socket) estate {
	e := estate{}
	for _, s := range sockets {
		if e[s.Key] == nil {
			e[s.Key] = new(heritage)
		}
		*e[s.Key] = append(*e[s.Key], s)
	}
	return e
}

func (e estate) closeAll() {
	for key, h := range e {
		closeAll(*h)
		delete(e, key)
	}
}

func closeAll(sockets []Socket) {
	for _, s := range sockets {
		_ = s.File.Close()
	}
}

// claim takes what q inherits out of the estate. What of it is not used the caller closes.
func (p *Pods) claim(q *pod) *heritage {
	h := p.estate[q.attachment.Key()]
	if h == nil {
		return new(heritage)
	}
	delete(p.estate, q.attachment.Key())
	return h
}

// listener makes a listener of the two sockets that stand for nameserver on the address at, if both are there.
func (h *heritage) listener(nameserver, at netip.Addr) *listener {
	udp, tcp := h.take(nameserver, UDP), h.take(nameserver, TCP)
	defer closeAll(append(udp, tcp...))
	if len(udp) == 0 || len(tcp) == 0 {
		return nil
	}
	u, err := serve.TakeUDP(udp[0].File)
	if err != nil {
		return nil
	}
	ln, err := serve.TakeTCP(tcp[0].File)
	if err != nil {
		_ = u.Close()
		return nil
	}
	l := &listener{nameserver: nameserver, udp: u, tcp: ln}
	if u.Addr().Addr() != at || ln.Addr() != u.Addr() {
		l.close()
		return nil
	}
	return l
}

// take takes the sockets of a kind that stand for nameserver out of h: one or none.
func (h *heritage) take(nameserver netip.Addr, kind SocketKind) (taken []Socket) {
	kept := (*h)[:0]
	for _, s := range *h {
		if len(taken) == 0 && s.Nameserver == nameserver && s.Kind == kind {
			taken = append(taken, s)
		} else {
			kept = append(kept, s)
		}
	}
	*h = kept
	return taken
}
