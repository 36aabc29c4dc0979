package main

import (
	"context"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/nodens-dns/nodens/dnsd/mesh"
	"github.com/nodens-dns/nodens/dnsd/resolve"
	"github.com/nodens-dns/nodens/dnsd/upstream"
)

// Names of DNS-type clusters are asked all the time. Only an answer with other addresses makes a plan,
// writes to the kernel and writes to the disk.
func TestUnchangedAnswersCostNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		kernel := &recorder{}
		h := testHub(t, dir, kernel, "file")
		ctx, cancel := context.WithCancel(t.Context())
		defer synctest.Wait()
		defer cancel()
		var mu sync.Mutex // guards the two below
		asked, addresses := 0, []string{"192.0.2.1", "192.0.2.2", "192.0.2.3"}
		h.resolver = resolve.New(resolve.Options{
			Exchange: func(_ context.Context, _ upstream.Servers, q *dns.Msg) (*dns.Msg, error) {
				mu.Lock()
				defer mu.Unlock()
				asked++
				m := new(dns.Msg).SetReply(q)
				for i := range addresses { // in another order and with another TTL each time
					m.Answer = append(m.Answer, &dns.A{
						Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: uint32(1 + asked%30)},
						A:   net.ParseIP(addresses[(i+asked)%len(addresses)]),
					})
				}
				return m, nil
			},
			Servers: func() []netip.AddrPort { return []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")} },
			Emit:    h.emit(ctx),
		})
		go func() { _ = h.run(ctx, h.pass()) }()
		go func() { _ = h.resolver.Run(ctx) }()
		go func() { _ = h.keep.Run(ctx) }()
		in := input("a.example", "b.example")
		in.Clusters[0].Discovery, in.Clusters[0].DNS = mesh.StrictDNS, &mesh.DNS{Family: mesh.V4Only}
		in.Clusters[0].Localities[0].Endpoints[0].Address = "db.example"
		h.emit(ctx)(in)
		time.Sleep(time.Minute)
		synctest.Wait()
		type cost struct {
			passes  uint64
			kernel  int
			written time.Time
		}
		spent := func() (_ cost, questions int) {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return cost{h.state.Load().Passes, kernel.calls, stat(t, filepath.Join(dir, "inputs", "resolve.json")).ModTime()}, asked
		}
		kept := func() string {
			text, err := os.ReadFile(filepath.Join(dir, "inputs", "resolve.json"))
			if err != nil {
				t.Fatal(err)
			}
			return string(text)
		}
		before, from := spent()
		time.Sleep(10 * time.Minute)
		after, to := spent()
		if after != before || to-from < 100 {
			t.Errorf("%d questions took it from %+v to %+v", to-from, before, after)
		}
		was := kept()
		mu.Lock()
		addresses = addresses[1:]
		mu.Unlock()
		time.Sleep(time.Minute)
		after, _ = spent()
		if after.passes != before.passes+1 || after.kernel != before.kernel+1 || kept() == was { // two writes may be in one tick of the file system's clock
			t.Errorf("another answer took it from %+v to %+v, kept %s", before, after, kept())
		}
	})
}

func stat(t *testing.T, path string) fs.FileInfo {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info
}
