package ebpf

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// Mark is the SO_MARK of dnsd's own sockets inside a pod: the programs leave them alone.
const Mark = uint32(nodensAgreedOWN_MARK)

// PortLow and PortHigh bound, inclusively, where a pod's listeners have their ports. Replies from
// elsewhere are not even looked up.
const (
	PortLow  = uint16(nodensAgreedPORT_LOW)
	PortHigh = uint16(nodensAgreedPORT_HIGH)
)

// Protocol is an IP protocol number.
type Protocol uint8

// The protocols the programs tell apart. AnyProtocol is for frontends.
const (
	AnyProtocol Protocol = 0
	TCP         Protocol = unix.IPPROTO_TCP
	UDP         Protocol = unix.IPPROTO_UDP
)

// Nameserver is one nameserver of a pod: its address as the pod knows it, and the port of dnsd's
// listener for it on the pod's own address, one number for UDP and TCP, 0 for none.
type Nameserver struct {
	Addr netip.Addr
	Port uint16
}

// Pod is what the programs know about one network namespace.
type Pod struct {
	Ifindex      uint32     // the pod's interface, inside its namespace
	Addr4, Addr6 netip.Addr // where its listeners are; zero: none of that family
	View         uint64     // whose frontends it sees beside everybody's: ViewOf its Kubernetes namespace
	DNS, LB      bool       // turn its queries, balance its connections
	Asker        uint64     // same for pods that are given the same answers, see Question; 0: nobody's
	Nameservers  []Nameserver
}

// ViewOf numbers a Kubernetes namespace, so that who may choose a namespace's name finds none with the number
// of another (64 bits of SHA-256). "" is 0: what everybody sees.
func ViewOf(namespace string) uint64 {
	if namespace == "" {
		return 0
	}
	sum := sha256.Sum256([]byte(namespace))
	return max(binary.NativeEndian.Uint64(sum[:]), 1)
}

// PutPod enrols a network namespace by its cookie (SO_NETNS_COOKIE), or changes its row. Writing what is
// there already is free.
func (d *Datapath) PutPod(cookie uint64, p Pod) error {
	row, err := p.row(cookie)
	if err != nil {
		return fmt.Errorf("pod row %d: %w", cookie, err)
	}
	var old nodensPod
	if d.maps.Pods.Lookup(cookie, &old) == nil && old == row {
		return nil
	}
	if err := d.maps.Pods.Put(cookie, row); err != nil {
		return fmt.Errorf("write pod row %d: %w", cookie, full(err, d.maps.Pods, nodensMapPods))
	}
	return nil
}

// DeletePod takes a namespace's row and listeners out. Absent is fine.
func (d *Datapath) DeletePod(cookie uint64) error {
	errs := []error{d.maps.Pods.Delete(cookie)}
	for i := range uint32(2 * nodensAgreedMAX_NAMESERVERS) {
		errs = append(errs, d.maps.Listeners.Delete(nodensListenerKey{Cookie: cookie, Slot: i}))
	}
	errs = slices.DeleteFunc(errs, func(err error) bool { return errors.Is(err, ebpf.ErrKeyNotExist) })
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("delete pod row %d: %w", cookie, err)
	}
	return nil
}

// Pods reads every row.
func (d *Datapath) Pods() (map[uint64]Pod, error) {
	pods := make(map[uint64]Pod)
	var cookie uint64
	var row nodensPod
	rows := d.maps.Pods.Iterate()
	for rows.Next(&cookie, &row) {
		pods[cookie] = row.pod()
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read pod rows: %w", err)
	}
	return pods, nil
}

// PutListener makes a bound UDP socket, or a listening TCP one, the listener for a pod's i-th
// nameserver. The kernel takes it out again when the socket closes. The socket stays the caller's. One of
// MPTCP, which Go opens unless told otherwise, is refused (EOPNOTSUPP), as is one not bound yet.
func (d *Datapath) PutListener(cookie uint64, nameserver int, proto Protocol, fd uintptr) error {
	key, err := listenerKey(cookie, nameserver, proto)
	if err != nil {
		return err
	}
	if err := d.maps.Listeners.Put(key, uint64(fd)); err != nil {
		return fmt.Errorf("write listener %d of pod row %d: %w", nameserver, cookie,
			full(err, d.maps.Listeners, nodensMapListeners))
	}
	return nil
}

// ListenerAlive says whether the kernel holds an open listener for a pod's i-th nameserver.
func (d *Datapath) ListenerAlive(cookie uint64, nameserver int, proto Protocol) (bool, error) {
	key, err := listenerKey(cookie, nameserver, proto)
	if err != nil {
		return false, err
	}
	var socket uint64 // its cookie
	err = d.maps.Listeners.Lookup(key, &socket)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return false, fmt.Errorf("read listener %d of pod row %d: %w", nameserver, cookie, err)
	}
	return err == nil, nil
}

// Beat says that dnsd works. Two seconds after the last one, queries go to the nameservers themselves.
func (d *Datapath) Beat() {
	atomic.StoreUint64(&d.heartbeat.rows[0], uint64(monotonic()))
}

// Heartbeat is how long ago the last Beat was.
func (d *Datapath) Heartbeat() time.Duration {
	return monotonic() - time.Duration(atomic.LoadUint64(&d.heartbeat.rows[0]))
}

// Counters reads how often each thing was done, summed over CPUs and since the maps were made.
func (d *Datapath) Counters() (map[string]uint64, error) {
	spec, err := loadNodens()
	if err != nil {
		return nil, err
	}
	var names *btf.Enum
	if err := spec.Types.TypeByName("count", &names); err != nil {
		return nil, fmt.Errorf("find the counters' names: %w", err)
	}
	counters := make(map[string]uint64)
	for _, v := range names.Values {
		name, ok := strings.CutPrefix(v.Name, "COUNT_")
		if !ok {
			continue // COUNTS, their number
		}
		var perCPU []uint64
		if err := d.maps.Counters.Lookup(uint32(v.Value), &perCPU); err != nil {
			return nil, fmt.Errorf("read counter %s: %w", name, err)
		}
		for _, n := range perCPU {
			counters[strings.ToLower(name)] += n
		}
	}
	return counters, nil
}

func (p Pod) row(cookie uint64) (nodensPod, error) {
	row := nodensPod{Cookie: cookie, View: p.View, Asker: p.Asker, Ifindex: p.Ifindex}
	if p.DNS {
		row.Flags |= nodensPodFlagsPOD_DNS
	}
	if p.LB {
		row.Flags |= nodensPodFlagsPOD_LB
	}
	if p.Addr4.IsValid() {
		row.Addr4 = address(p.Addr4)
	}
	if p.Addr6.IsValid() {
		row.Addr6 = address(p.Addr6)
	}
	if len(p.Nameservers) > len(row.Nameservers) {
		return row, fmt.Errorf("%d nameservers, there is room for %d", len(p.Nameservers), len(row.Nameservers))
	}
	for i, ns := range p.Nameservers {
		here := p.Addr4
		if ns.Addr.Is6() && !ns.Addr.Is4In6() {
			here = p.Addr6
		}
		if !ns.Addr.IsValid() || !here.IsValid() {
			return row, fmt.Errorf("nameserver %s: the pod has no address of its family", ns.Addr)
		}
		if ns.Port != 0 && (ns.Port < PortLow || ns.Port > PortHigh) {
			return row, fmt.Errorf("nameserver %s: port %d is outside %d to %d", ns.Addr, ns.Port, PortLow, PortHigh)
		}
		row.Nameservers[i] = endpoint(netip.AddrPortFrom(ns.Addr, ns.Port))
	}
	return row, nil
}

func (row nodensPod) pod() Pod {
	p := Pod{Ifindex: row.Ifindex, View: row.View, Asker: row.Asker,
		DNS: row.Flags&nodensPodFlagsPOD_DNS != 0, LB: row.Flags&nodensPodFlagsPOD_LB != 0}
	if row.Addr4 != (nodensAddress{}) {
		p.Addr4 = row.Addr4.addr()
	}
	if row.Addr6 != (nodensAddress{}) {
		p.Addr6 = row.Addr6.addr()
	}
	for _, ns := range row.Nameservers {
		if ns.Addr != (nodensAddress{}) {
			p.Nameservers = append(p.Nameservers, Nameserver{Addr: ns.Addr.addr(), Port: swap(ns.Port)})
		}
	}
	return p
}

func listenerKey(cookie uint64, nameserver int, proto Protocol) (nodensListenerKey, error) {
	key := nodensListenerKey{Cookie: cookie, Slot: uint32(nameserver) << 1}
	switch proto {
	case TCP:
		key.Slot |= 1
	case UDP:
	default:
		return key, fmt.Errorf("listener %d of pod row %d: protocol %d is neither UDP nor TCP", nameserver, cookie, proto)
	}
	if nameserver < 0 || nameserver >= int(nodensAgreedMAX_NAMESERVERS) {
		return key, fmt.Errorf("listener %d of pod row %d: there is room for %d", nameserver, cookie, nodensAgreedMAX_NAMESERVERS)
	}
	return key, nil
}

// address is how the programs see an address: 16 bytes as on the wire, IPv4 mapped.
func address(a netip.Addr) nodensAddress {
	return nodensAddress{Word: *(*[4]uint32)(unsafe.Pointer(new(a.As16())))}
}

func (a nodensAddress) addr() netip.Addr {
	return netip.AddrFrom16(*(*[16]byte)(unsafe.Pointer(&a.Word))).Unmap()
}

func endpoint(a netip.AddrPort) nodensEndpoint {
	return nodensEndpoint{Addr: address(a.Addr()), Port: swap(a.Port())}
}

// swap turns a port from host to network order, or back.
func swap(port uint16) uint16 {
	return binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, port))
}

func monotonic() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail with this clock
	return time.Duration(ts.Nano())
}

// full names the map in the error a full one gives.
func full(err error, m *ebpf.Map, name string) error {
	if errors.Is(err, unix.E2BIG) || errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("map %s is full (%d rows): %w", name, m.MaxEntries(), err)
	}
	return err
}
