package ebpf

import (
	"net/netip"
	"runtime"
	"sort"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodens-dns/nodens/conformance/sandbox"
)

// What the hooks add to connect(): compare with the sockets of a namespace that is no pod.
func BenchmarkConnect(b *testing.B) {
	w, s := lbWorld(b)
	f := map[Frontend]string{}
	both(f, vip4, 80, "random")
	both(f, vip4b, 80, "least request")
	apply(b, s, f, map[string]Service{
		"random":        {Backends: backends(8080, back4...)},
		"least request": {Policy: LeastRequest, Backends: backends(8080, back4...)},
	})
	run := func(name string, ns *sandbox.NS, to netip.AddrPort) {
		b.Run(name, func(b *testing.B) {
			k := socketIn(b, ns, unix.AF_INET, unix.SOCK_DGRAM, 0)
			sa := k.sockaddr(to)
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			const slice = 200 // connects that are timed together
			var slices []float64
			for n := 0; b.Loop(); n++ {
				if n%slice != 0 {
					continue
				}
				start := threadTime(b)
				for range slice {
					if err := unix.Connect(k.fd, sa); err != nil {
						b.Fatal(err)
					}
				}
				slices = append(slices, float64(threadTime(b)-start)/slice)
			}
			sort.Float64s(slices)
			b.ReportMetric(slices[len(slices)/20], "cpu-ns/connect") // what other load did not slow down
		})
	}
	run("no pod", w.net, netip.AddrPortFrom(pod4, 9))
	run("pod, elsewhere", w.pod, netip.AddrPortFrom(back4[0], 9))
	run("random", w.pod, netip.AddrPortFrom(vip4, 80))
	run("least request", w.pod, netip.AddrPortFrom(vip4b, 80))
}

// threadTime is the CPU time this thread has used.
func threadTime(b *testing.B) time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		b.Fatal(err)
	}
	return time.Duration(ts.Nano())
}
