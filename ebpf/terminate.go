package ebpf

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
)

// iterators are the programs of the object that are not attached anywhere: they run when they are read.
var iterators = []string{nodensProgListLeft, nodensProgEndTcp, nodensProgEndUdp}

// Terminator ends connected sockets whose backend has left the service they asked for: UDP at once, TCP
// when the drain time is over. What it knows is kept with the sockets, so a new one goes on where
// another stopped. It is not safe for concurrent use.
type Terminator struct {
	left, tcp, udp *link.Iter
	drain          time.Duration
}

// Within runs f, which is quick, inside the network namespace of a cookie, and returns its error.
type Within func(netns uint64, f func() error) error

// Terminator loads what ends sockets. The drain time is counted in whole seconds. It fails on a kernel
// that cannot: [Datapath.Features] says so, too. The caller must Close it.
func (d *Datapath) Terminator(drain time.Duration) (*Terminator, error) {
	spec, err := loadNodens()
	if err != nil {
		return nil, err
	}
	seconds := uint32(min(max(0, (drain+time.Second-1)/time.Second), math.MaxUint32))
	if err := spec.Variables[nodensVarDrain].Set(seconds); err != nil {
		return nil, fmt.Errorf("set %s: %w", nodensVarDrain, err)
	}
	var programs struct {
		Left *ebpf.Program `ebpf:"list_left"`
		TCP  *ebpf.Program `ebpf:"end_tcp"`
		UDP  *ebpf.Program `ebpf:"end_udp"`
	}
	maps := d.pinned()
	for name, m := range maps {
		spec.Maps[name].MaxEntries = m.MaxEntries() // for tests, whose maps are smaller
	}
	if err := spec.LoadAndAssign(&programs, &ebpf.CollectionOptions{MapReplacements: maps}); err != nil {
		return nil, fmt.Errorf("load the programs that end sockets (Linux 6.5 or later has bpf_sock_destroy): %w", err)
	}
	t := &Terminator{drain: time.Duration(seconds) * time.Second}
	var errs [3]error
	t.left, errs[0] = link.AttachIter(link.IterOptions{Program: programs.Left, Map: d.maps.Sockets})
	t.tcp, errs[1] = link.AttachIter(link.IterOptions{Program: programs.TCP})
	t.udp, errs[2] = link.AttachIter(link.IterOptions{Program: programs.UDP})
	for _, p := range []*ebpf.Program{programs.Left, programs.TCP, programs.UDP} {
		errs[0] = errors.Join(errs[0], p.Close()) // the links hold on to them
	}
	if err := errors.Join(errs[:]...); err != nil {
		return nil, errors.Join(fmt.Errorf("prepare to end sockets: %w", err), t.Close())
	}
	return t, nil
}

// Close frees what it loaded.
func (t *Terminator) Close() error {
	var errs []error
	for _, i := range []*link.Iter{t.left, t.tcp, t.udp} {
		if i != nil {
			errs = append(errs, i.Close())
		}
	}
	return errors.Join(errs...)
}

// Ended is what one End did, and what it left for later.
type Ended struct {
	UDP, TCP int           // sockets ended
	Draining int           // connections in their drain time
	Next     time.Duration // until the first of those is due; zero: there is none
}

// End ends what is due at the moment of the call. It looks through the sockets that were ever sent to a
// backend, and only in namespaces where one of them is due through all. A connection whose backend has
// come back is spared. Namespaces that cannot be entered are in the error and do not keep it from the
// others. An MPTCP connection loses this one path, and ends when the kernel has waited for another, a
// minute, unless its peer speaks TCP.
func (t *Terminator) End(within Within) (Ended, error) {
	left, err := t.list()
	if err != nil {
		return Ended{}, err
	}
	var e Ended
	udp, tcp := make(map[uint64]bool), make(map[uint64]bool) // namespaces with something due
	now := monotonic().Truncate(time.Second)
	for _, l := range left {
		rest := time.Duration(l.Left)*time.Second + t.drain - now
		switch {
		case Protocol(l.Protocol) == UDP:
			udp[l.Netns] = true
		case rest <= 0:
			tcp[l.Netns] = true
		default:
			e.Draining++
			if e.Next == 0 || rest < e.Next {
				e.Next = rest
			}
		}
	}
	var errUDP, errTCP error
	e.UDP, errUDP = end(t.udp, udp, within)
	e.TCP, errTCP = end(t.tcp, tcp, within)
	return e, errors.Join(errUDP, errTCP)
}

// leaver is struct leaver: a socket whose backend has left.
type leaver struct {
	Netns    uint64
	Left     uint32 // s, monotonic
	Protocol uint32
}

func (t *Terminator) list() ([]leaver, error) {
	lines, err := t.left.Open()
	if err != nil {
		return nil, fmt.Errorf("list sockets: %w", err)
	}
	defer func() { _ = lines.Close() }()
	var all []leaver
	for r := bufio.NewReader(lines); ; {
		var l leaver
		switch err := binary.Read(r, binary.NativeEndian, &l); {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, fmt.Errorf("list sockets: %w", err)
		}
		all = append(all, l)
	}
}

// end runs an iterator over the sockets of each namespace and counts those it ended. An iterator belongs
// to the namespace it is opened in; what it takes, it takes outside.
func end(i *link.Iter, namespaces map[uint64]bool, within Within) (n int, err error) {
	for netns := range namespaces {
		var sockets io.ReadCloser
		failed := within(netns, func() (err error) {
			sockets, err = i.Open()
			return err
		})
		if failed == nil {
			var ended int64
			ended, failed = io.Copy(io.Discard, sockets)
			n += int(ended)
			_ = sockets.Close()
		}
		if failed != nil {
			err = errors.Join(err, fmt.Errorf("end sockets in the network namespace of cookie %d: %w", netns, failed))
		}
	}
	return n, err
}

// pinned are the maps by name.
func (d *Datapath) pinned() map[string]*ebpf.Map {
	all := make(map[string]*ebpf.Map)
	v := reflect.ValueOf(d.maps)
	for i := range v.NumField() {
		all[v.Type().Field(i).Tag.Get("ebpf")] = v.Field(i).Interface().(*ebpf.Map)
	}
	return all
}

// haveSockDestroy looks for the kernel function in the kernel's own description of itself.
var haveSockDestroy = sync.OnceValue(func() bool {
	kernel, err := btf.LoadKernelSpec()
	var f *btf.Func
	return err == nil && kernel.TypeByName("bpf_sock_destroy", &f) == nil
})
