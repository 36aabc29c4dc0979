package ebpf

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// hooks in the order they are attached, which is the order of what may not be live without what comes
// before it: a datagram must not be sent elsewhere while nothing shows its reply as the asked one's.
var hooks = []string{
	nodensProgRecvmsg4, nodensProgRecvmsg6, nodensProgGetpeername4, nodensProgGetpeername6,
	nodensProgSockRelease, nodensProgSockOps,
	nodensProgConnect4, nodensProgConnect6, nodensProgSendmsg4, nodensProgSendmsg6,
}

// attachments lists how to come before other tools' programs at the same cgroup, the best first. A
// kernel that does not know a flag says EINVAL, or that it does not support it.
var attachments = []struct {
	flags uint32
	name  string
	since string
}{
	{unix.BPF_F_BEFORE, "before all programs there", "6.17"},
	{1 << 6, "in front of descendants' programs", "6.15"}, // BPF_F_PREORDER
	{0, "after programs attached earlier", "5.7"},
}

// attachAll makes every hook run its program, or after an error, as far as that can be, the one it ran before:
// programs of two builds, with maps of two layouts perhaps, do not understand what the other has noted of a socket.
func attachAll(o Options, programs *ebpf.Collection) error {
	spec, err := loadNodens()
	if err != nil {
		return err
	}
	cgroup, err := os.Open(o.CgroupPath)
	if err != nil {
		return fmt.Errorf("attach the datapath: %w", err)
	}
	defer func() { _ = cgroup.Close() }()
	var undo []func() error
	for _, hook := range hooks {
		pin, at := filepath.Join(o.PinPath, linksDir, hook), spec.Programs[hook].AttachType
		before := programAt(pin, cgroup.Name()) // or nil
		undo = append(undo, func() error {
			if before == nil {
				return detach(pin)
			}
			return attach(cgroup, pin, before, at)
		})
		defer func() { _ = before.Close() }()
		if err = attach(cgroup, pin, programs.Programs[hook], at); err != nil {
			err = fmt.Errorf("attach %s at %s: %w", hook, o.CgroupPath, err)
			break
		}
	}
	if err != nil {
		for _, back := range slices.Backward(undo) {
			err = errors.Join(err, back())
		}
	}
	return err
}

// programAt is the program that a pinned link runs at the cgroup, or nil. The caller closes it.
func programAt(pin, cgroup string) *ebpf.Program {
	l, err := pinnedLink(pin, cgroup)
	if err != nil {
		return nil
	}
	defer func() { _ = l.Close() }()
	info, err := l.Info()
	if err != nil {
		return nil
	}
	p, err := ebpf.NewProgramFromID(info.Program)
	if err != nil {
		return nil
	}
	return p
}

// attach makes the pinned link run prog at the cgroup: the link that is there, if it stands for that
// cgroup, else a new one.
func attach(cgroup *os.File, pin string, prog *ebpf.Program, at ebpf.AttachType) error {
	if l, err := pinnedLink(pin, cgroup.Name()); err == nil {
		defer func() { _ = l.Close() }()
		return l.Update(prog)
	}
	if err := detach(pin); err != nil {
		return err
	}
	l, _, err := attachFirst(cgroup, prog, at)
	if err != nil {
		return err
	}
	// Should Pin fail, Close takes the program off again.
	return errors.Join(l.Pin(pin), l.Close())
}

// attachFirst walks down the ladder of attachments and returns the index of the one that held.
func attachFirst(cgroup *os.File, prog *ebpf.Program, at ebpf.AttachType) (*link.RawLink, int, error) {
	var err error
	for i, a := range attachments {
		var l *link.RawLink
		l, err = link.AttachRawLink(link.RawLinkOptions{
			Target: int(cgroup.Fd()), Program: prog, Attach: at, Flags: a.flags,
		})
		if err == nil {
			return l, i, nil
		}
		if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, link.ErrNotSupported) {
			break
		}
	}
	if errors.Is(err, unix.EPERM) {
		err = fmt.Errorf("%w (another tool may have attached there, or above, without allowing others)", err)
	}
	return nil, 0, err
}

func detach(pin string) error {
	if _, err := os.Lstat(pin); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	// Detached by name: the kernel would let go of an unpinned link only some time later.
	if l, err := link.LoadPinnedLink(pin, nil); err == nil {
		err = l.Detach()
		_ = l.Close()
		if err != nil && !errors.Is(err, link.ErrNotSupported) {
			return fmt.Errorf("detach %s: %w", pin, err)
		}
	}
	if err := os.Remove(pin); err != nil {
		return fmt.Errorf("remove pin: %w", err)
	}
	return nil
}

// pinnedLink opens a pinned link that is attached to the cgroup; a link outlives its cgroup as a shell.
func pinnedLink(pin, cgroup string) (link.Link, error) {
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		return nil, fmt.Errorf("open link %s: %w", pin, err)
	}
	var st unix.Stat_t
	err = unix.Stat(cgroup, &st)
	if err == nil {
		var info *link.Info
		if info, err = l.Info(); err == nil {
			if c := info.Cgroup(); c == nil || c.CgroupId != st.Ino {
				err = fmt.Errorf("not attached at %s", cgroup)
			}
		}
	}
	if err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("link %s: %w", pin, err)
	}
	return l, nil
}

// verify asks the kernel whether every pinned link is attached where it should be.
func verify(o Options) error {
	for _, hook := range hooks {
		l, err := pinnedLink(filepath.Join(o.PinPath, linksDir, hook), o.CgroupPath)
		if err != nil {
			return err
		}
		_ = l.Close()
	}
	return nil
}

// probe makes sure that sockets see the programs, and says how. A process below the cgroup tries one of
// its own; any other has to believe the kernel's list.
func (d *Datapath) probe() (string, error) {
	inside, err := below(d.cgroup)
	if err != nil {
		return "", err
	}
	if !inside {
		return "the kernel lists the programs; this process is not below " + d.cgroup, d.listed()
	}
	fd, err := probeSocket()
	if err != nil {
		return fmt.Sprintf("the kernel lists the programs; no socket could try them: %v", err), d.listed()
	}
	defer func() { _ = unix.Close(fd) }()
	return "a socket of this process was seen", d.trySocket(fd)
}

var (
	probePeer  = netip.MustParseAddrPort("127.0.0.1:9") // discard
	probeShown = netip.MustParseAddrPort("192.0.2.1:9") // RFC 5737: nobody's
)

// probeSocket connects a datagram socket, which sends nothing. The caller closes it.
func probeSocket() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open a probe socket: %w", err)
	}
	peer := &unix.SockaddrInet4{Addr: probePeer.Addr().As4(), Port: int(probePeer.Port())}
	if err := unix.Connect(fd, peer); err != nil {
		return 0, errors.Join(fmt.Errorf("connect a probe socket: %w", err), unix.Close(fd))
	}
	return fd, nil
}

// trySocket tells the kernel that a socket's peer stands for another address and asks for its peer: the
// answer is right only if the getpeername program saw it.
func (d *Datapath) trySocket(fd int) error {
	var s nodensSocket
	s.Ring[0].Backend, s.Ring[0].Frontend = endpoint(probePeer), endpoint(probeShown)
	if err := d.maps.Sockets.Put(int32(fd), s); err != nil {
		return fmt.Errorf("prepare a probe socket: %w", err)
	}
	peer, err := unix.Getpeername(fd)
	if err != nil {
		return fmt.Errorf("ask a probe socket for its peer: %w", err)
	}
	if in4, ok := peer.(*unix.SockaddrInet4); !ok || in4.Addr != probeShown.Addr().As4() {
		return errors.New("a socket of this process is not seen by the programs")
	}
	return nil
}

// listed asks the kernel whether a program of ours is in effect at the cgroup for every hook.
func (d *Datapath) listed() error {
	cgroup, err := os.Open(d.cgroup)
	if err != nil {
		return fmt.Errorf("list programs: %w", err)
	}
	defer func() { _ = cgroup.Close() }()
	spec, err := loadNodens()
	if err != nil {
		return err
	}
	for _, hook := range hooks {
		r, err := link.QueryPrograms(link.QueryOptions{
			Target: int(cgroup.Fd()), Attach: spec.Programs[hook].AttachType, QueryFlags: unix.BPF_F_QUERY_EFFECTIVE,
		})
		if err != nil {
			return fmt.Errorf("list %s programs at %s: %w", hook, d.cgroup, err)
		}
		if len(r.Programs) == 0 {
			return fmt.Errorf("no %s program is in effect at %s", hook, d.cgroup)
		}
	}
	return nil
}

// below says whether this process's sockets belong to a cgroup, cgroups(7).
func below(cgroup string) (bool, error) {
	root, err := cgroupRoot()
	if err != nil {
		return false, err
	}
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return false, fmt.Errorf("find this process's cgroup: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		if own, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			rel, err := filepath.Rel(cgroup, filepath.Join(root, own))
			return err == nil && rel != ".." && !strings.HasPrefix(rel, "../"), nil
		}
	}
	return false, nil
}
