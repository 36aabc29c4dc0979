package pods

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/nodens-dns/nodens/cni/attach"
)

// Who asks on the machine itself does not notice the interfaces that come and go there, as those of
// containers do; another nameserver or address of its own is another matter.
func TestHostWhoseInterfacesChange(t *testing.T) {
	n := newNode(t)
	var now atomic.Pointer[attach.Attachment]
	is := func(server string, addresses ...string) {
		now.Store(&attach.Attachment{
			Interface: "lo", Addresses: prefixes(addresses...), DNS: attach.DNS{Nameservers: []netip.Addr{netip.MustParseAddr(server)}},
		})
	}
	is(server4, "192.0.2.5/32")
	n.options.Host = func() (attach.Attachment, error) { return *now.Load(), nil }
	n.start()
	host := attach.Attachment{ContainerID: hostKey.ContainerID, IfName: hostKey.IfName}
	before := n.wait(host, Captured, "")
	is(server4, "192.0.2.5/32", "172.17.0.1/16", "fe80::1/64")
	n.sweep()
	n.sweep()
	if p := n.find(host); p.State != Captured || !p.Since.Equal(before.Since) || len(p.Addresses) != 3 {
		t.Errorf("with another interface it was %+v, is %+v", before, p)
	}
	is(server4, "192.0.2.6/32", "172.17.0.1/16")
	n.sweep()
	n.eventually("another address is followed", func() error {
		if p := n.find(host); p.State != Captured || p.Since.Equal(before.Since) {
			return fmt.Errorf("%+v", p)
		}
		return nil
	})
	is(server4, "192.0.2.6/32", server4+"/32")
	n.sweep()
	n.wait(host, Balanced, "none of its nameservers can be captured")
}
