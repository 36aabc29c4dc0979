package ebpf

import (
	"net/netip"
	"testing"

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
			for b.Loop() {
				if err := unix.Connect(k.fd, sa); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	run("no pod", w.net, netip.AddrPortFrom(pod4, 9))
	run("pod, elsewhere", w.pod, netip.AddrPortFrom(back4[0], 9))
	run("random", w.pod, netip.AddrPortFrom(vip4, 80))
	run("least request", w.pod, netip.AddrPortFrom(vip4b, 80))
}
