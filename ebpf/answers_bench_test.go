package ebpf

import (
	"net/netip"
	"runtime"
	"sort"
	"testing"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/nodens-dns/nodens/conformance/sandbox"
)

// BenchmarkAsk is one query after the other from one socket: the same packet sent and received by itself, which
// is the least there can be, where no pod is and in a pod, where the hooks look at it; and answered in the kernel,
// on lo and, for a pod without listeners, on its interface.
func BenchmarkAsk(b *testing.B) {
	packet, err := question("dual.svc.cluster.local.", dns.TypeA).Pack()
	must(b, err)
	b.Run("nothing", func(b *testing.B) {
		sandbox.Root(b)
		w := &world{pod: sandbox.Netns(b), net: sandbox.Netns(b)}
		must(b, sandbox.Veth("eth0", w.pod, []string{pod4.String() + "/16"}, w.net, nil))
		w.echo(b, packet)
	})
	b.Run("hooks", func(b *testing.B) { newAsked(b).echo(b, packet) })
	for name, light := range map[string]bool{"inside": false, "outside": true} {
		b.Run(name, func(b *testing.B) {
			a := newAsked(b)
			a.declare(b, dual)
			if !light {
				a.listen(b, 0, pod4, 64600)
			}
			s := a.socket(b, unix.AF_INET, unix.SOCK_DGRAM, 0)
			must(b, s.connect(netip.AddrPortFrom(ns4a, 53)))
			s.rounds(b, packet)
		})
	}
}

// echo sends packets from a socket of the pod to itself.
func (w *world) echo(b *testing.B, packet []byte) {
	s := w.socket(b, unix.AF_INET, unix.SOCK_DGRAM, 0)
	at := netip.AddrPortFrom(pod4, 5353)
	must(b, unix.Bind(s.fd, s.sockaddr(at)))
	must(b, s.connect(at))
	s.rounds(b, packet)
}

// rounds sends a packet and reads what comes back, again and again. What is told is of CPU time, what other load
// did not slow down.
func (s sock) rounds(b *testing.B, packet []byte) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	buf := make([]byte, 512)
	const slice = 200 // rounds that are timed together
	var slices []float64
	b.ResetTimer()
	for range b.N/slice + 1 {
		start := threadTime(b)
		for range slice {
			s.round(b, packet, buf)
		}
		slices = append(slices, float64(threadTime(b)-start)/slice)
	}
	b.StopTimer()
	sort.Float64s(slices)
	b.ReportMetric(slices[len(slices)/20], "cpu-ns/query")
}

func (s sock) round(b *testing.B, packet, buf []byte) {
	if _, err := unix.Write(s.fd, packet); err != nil {
		b.Fatal(err)
	}
	if _, err := unix.Read(s.fd, buf); err != nil {
		b.Fatal(err)
	}
}
