package machine

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/nodens-dns/nodens/cni/attach"
	"github.com/nodens-dns/nodens/conformance/sandbox"
)

// What stands on the machine itself is no nameserver to capture; what it asks is.
func TestMachine(t *testing.T) {
	sandbox.Root(t)
	here, router := sandbox.Netns(t), sandbox.Netns(t)
	if err := sandbox.Veth("eth7", here, []string{"10.0.0.5/24", "fd00::5/64", "10.0.0.6/24"}, router, []string{"10.0.0.1/24"}); err != nil {
		t.Fatal(err)
	}
	lonely := sandbox.Netns(t)
	for name, c := range map[string]struct {
		resolvConf, behindStub string // the second is absent if empty
		ns                     *sandbox.NS
		nameservers, searches  []string
		addresses              []string // the first of them, in order
		fails                  bool
	}{
		"servers outside": {"nameserver 10.0.0.1\nnameserver fd00::1\nsearch corp.example\n", "nameserver 10.0.0.9\n", here,
			[]string{"10.0.0.1", "fd00::1"}, []string{"corp.example"}, []string{"10.0.0.5/32", "fd00::5/128"}, false},
		"one here, one outside": {"nameserver 127.0.0.1\nnameserver 10.0.0.1\n", "", here, []string{"10.0.0.1"}, nil, []string{"10.0.0.5/32"}, false},
		"systemd-resolved": {"nameserver 127.0.0.53\nsearch a b\n", "nameserver 10.0.0.1\n", here,
			[]string{"10.0.0.1"}, []string{"a", "b"}, []string{"10.0.0.5/32"}, false},
		"another stub": {"nameserver ::1\n", "", here, nil, nil, nil, true}, // no route to everywhere
		"no network":   {"nameserver 10.0.0.1\n", "", lonely, []string{"10.0.0.1"}, nil, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			m := files{resolvConf: filepath.Join(dir, "resolv.conf"), behindStub: filepath.Join(dir, "behind")}
			for path, text := range map[string]string{m.resolvConf: c.resolvConf, m.behindStub: c.behindStub} {
				if text == "" {
					continue
				}
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			var a attach.Attachment
			err := c.ns.Do(func() (err error) {
				a, err = m.attachment()
				return err
			})
			if (err != nil) != c.fails {
				t.Fatal(err)
			}
			var servers []string
			for _, s := range a.DNS.Nameservers {
				servers = append(servers, s.String())
			}
			if !slices.Equal(servers, c.nameservers) || !slices.Equal(a.DNS.Searches, c.searches) {
				t.Errorf("captures %v, searches %q; want %v, %q", servers, a.DNS.Searches, c.nameservers, c.searches)
			}
			for i, want := range c.addresses {
				if i >= len(a.Addresses) || a.Addresses[i].String() != want {
					t.Errorf("addresses %v; want %v first", a.Addresses, c.addresses)
					break
				}
			}
			if !c.fails && (a.Interface != "eth7" || !slices.Contains(a.Addresses, netip.MustParsePrefix("10.0.0.6/24"))) {
				t.Errorf("interface %s, addresses %v", a.Interface, a.Addresses)
			}
		})
	}
}
