package ebpf

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fireEnv makes TestFire last longer, as a duration.
const fireEnv = "NODENS_FIRE"

// fired is a service under fire: every set of backends it was ever told to have.
type fired struct {
	name  string
	vip   netip.AddrPort
	lock  sync.Mutex
	sets  []map[string]bool
	whole int // how many of them the kernel has got, all but perhaps the last
}

func (f *fired) begin(set map[string]bool) {
	f.lock.Lock()
	defer f.lock.Unlock()
	f.sets = append(f.sets, set)
}

func (f *fired) done() {
	f.lock.Lock()
	defer f.lock.Unlock()
	f.whole = len(f.sets)
}

// now is the number of the newest set that is surely there, and how many were begun.
func (f *fired) now() (newest, begun int) {
	f.lock.Lock()
	defer f.lock.Unlock()
	return f.whole - 1, len(f.sets)
}

// allows says whether a backend is in one of the sets from first on, but before end.
func (f *fired) allows(backend string, first, end int) bool {
	f.lock.Lock()
	defer f.lock.Unlock()
	return slices.ContainsFunc(f.sets[first:end], func(set map[string]bool) bool { return set[backend] })
}

// TestFire has five writers change services at random while clients connect: no connection fails, none
// reaches a backend that was neither in the old set nor in the new one, and in the end none is counted.
func TestFire(t *testing.T) {
	last := 10 * time.Second
	if s := os.Getenv(fireEnv); s != "" {
		var err error
		last, err = time.ParseDuration(s)
		must(t, err)
	}
	w, s := lbWorld(t)
	var all []netip.AddrPort
	for _, a := range back4 {
		for port := uint16(8080); port < 8084; port++ {
			at := netip.AddrPortFrom(a, port)
			serve(t, w.net, at.String(), at)
			all = append(all, at)
		}
	}
	var writing sync.Mutex // Services has one writer; what it writes is five's
	frontends, services := map[Frontend]string{}, map[string]Service{}
	var targets []*fired
	for i := range 5 {
		f := &fired{name: fmt.Sprint("service ", i), vip: netip.AddrPortFrom(netip.AddrFrom4([4]byte{240, 240, 1, byte(i)}), 80)}
		both(frontends, f.vip.Addr(), 80, f.name)
		service, set := randomService(all)
		services[f.name] = service
		f.begin(set)
		f.done()
		targets = append(targets, f)
	}
	apply(t, s, frontends, services)

	stop := make(chan struct{})
	time.AfterFunc(last, func() { close(stop) })
	var group sync.WaitGroup
	var updates, connects atomic.Int64
	for _, f := range targets {
		group.Go(func() {
			for running(stop) && !t.Failed() {
				service, set := randomService(all)
				writing.Lock()
				services[f.name] = service
				f.begin(set)
				_, err := s.Apply(frontends, services)
				switch {
				case err == nil:
					f.done()
				case !errors.Is(err, errFull): // what it had before stays
					t.Error(err)
				}
				writing.Unlock()
				updates.Add(1)
				time.Sleep(time.Duration(rand.IntN(2000)) * time.Microsecond)
			}
		})
	}
	for range 4 {
		group.Go(func() {
			for running(stop) && !t.Failed() {
				f := targets[rand.IntN(len(targets))]
				connectUnderFire(t, w, f)
				connects.Add(1)
			}
		})
	}
	group.Wait()
	t.Logf("%d updates under %d connects", updates.Load(), connects.Load())
	if updates.Load() < 100 || connects.Load() < 100 {
		t.Error("that was no fire")
	}
	for _, name := range []string{"lb_refused", "lb_over_limit", "lb_nobodys", "lb_untracked"} {
		if n := w.counter(t, name); n != 0 {
			t.Errorf("%s is %d", name, n)
		}
	}
	for addr, id := range s.ids {
		eventually(t, addr.String()+" has no connections", func() bool {
			return atomic.LoadUint32(&s.tables.states.rows[id].Active) == 0
		})
	}
	for _, f := range targets {
		eventually(t, f.name+" has no connections", func() bool { return state(t, s, f.name).Active == 0 })
	}
}

func running(stop chan struct{}) bool {
	select {
	case <-stop:
		return false
	default:
		return true
	}
}

// randomService is some of the backends under random settings, and their names.
func randomService(all []netip.AddrPort) (Service, map[string]bool) {
	s := Service{Policy: Policy(rand.IntN(int(Maglev) + 1)), Lasting: rand.IntN(2) == 0}
	if rand.IntN(2) == 0 {
		s.MaxConnections = 1000
	}
	if rand.IntN(3) == 0 {
		s.Affinity = time.Duration(rand.IntN(10)) * time.Millisecond
	}
	set := map[string]bool{}
	for _, i := range rand.Perm(len(all))[:1+rand.IntN(len(all)-1)] {
		s.Backends = append(s.Backends, Backend{Addr: all[i], Weight: uint32(1 + rand.IntN(5)), Always: rand.IntN(9) == 0})
		set[all[i].String()] = true
	}
	for _, i := range rand.Perm(len(all))[:rand.IntN(3)] {
		s.Standby = append(s.Standby, all[i])
	}
	return s, set
}

// connectUnderFire connects once, by TCP or UDP, and asks who answers.
func connectUnderFire(t *testing.T, w *world, f *fired) {
	kind := unix.SOCK_STREAM
	if rand.IntN(2) == 0 {
		kind = unix.SOCK_DGRAM
	}
	k := w.socket(t, unix.AF_INET, kind, 0)
	defer k.close()
	patience := unix.NsecToTimeval((20 * time.Second).Nanoseconds()) // the machine may be busy
	must(t, unix.SetsockoptTimeval(k.fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &patience))
	must(t, unix.SetsockoptTimeval(k.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience))
	must(t, unix.SetsockoptLinger(k.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})) // no TIME-WAIT
	first, _ := f.now()
	if err := k.connect(f.vip); err != nil {
		t.Errorf("connect: %v", err)
		return
	}
	_, end := f.now()
	if kind == unix.SOCK_DGRAM {
		if _, err := unix.Write(k.fd, []byte("?")); err != nil {
			t.Errorf("write: %v", err)
			return
		}
	}
	answer, _, err := k.receive()
	if err != nil {
		t.Errorf("read: %v", err)
		return
	}
	if !f.allows(answer, first, end) {
		t.Errorf("%s reached %s, which is in no set from %d to %d", f.name, answer, first, end-1)
	}
}
