package ebpf

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// While names come and go, each is answered with addresses of its own or not at all: rows that are deleted give
// their place to others at once.
func TestAnswersWhileNamesChange(t *testing.T) {
	a := newAsked(t)
	const hosts, asks = 40, 4000
	var sets [2][]Declared
	for i := range byte(hosts) {
		d := Declared{Host: fmt.Sprintf("h%d.example.", i), TTL: 30, Zone: "example."}
		for j := range byte(4) {
			d.A = append(d.A, netip.AddrFrom4([4]byte{10, i, i, j}))
		}
		sets[i%2] = append(sets[i%2], d)
	}
	stop := make(chan struct{})
	var flips int
	var flipping sync.WaitGroup
	flipping.Go(func() {
		for ; ; flips++ {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := a.Apply(slices.Values(sets[flips%2]), false); err != nil {
				t.Error(err)
				return
			}
		}
	})
	s := a.socket(t, unix.AF_INET, unix.SOCK_DGRAM, 0)
	answered := 0
	for i := range asks {
		packet, err := question(fmt.Sprintf("h%d.example.", i%hosts), dns.TypeA).Pack()
		must(t, err)
		must(t, s.sendBytes(packet, netip.AddrPortFrom(ns4a, 53)))
		reply, _, err := s.receive()
		must(t, err)
		var r dns.Msg
		if r.Unpack([]byte(reply)) != nil { // the nameserver's
			continue
		}
		answered++
		for _, rr := range r.Answer {
			if ip := rr.(*dns.A).A.To4(); len(r.Answer) != 4 || ip[1] != byte(i%hosts) || ip[2] != ip[1] {
				t.Fatalf("after %d flips h%d is answered\n%s", flips, i%hosts, &r)
			}
		}
	}
	close(stop)
	flipping.Wait()
	if answered == 0 || answered == asks {
		t.Errorf("%d of %d were answered in the kernel, want some", answered, asks)
	}
	t.Logf("%d of %d answered in the kernel, through %d flips", answered, asks, flips)
}
