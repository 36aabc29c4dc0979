package upstream

import (
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// ResolvConf reads the nameservers, in order and with port 53, and the search list of a resolv.conf(5).
// Nameservers that are not IP addresses are left out. A file that names none is not an error.
func ResolvConf(path string) (servers []netip.AddrPort, search []string, err error) {
	conf, err := dns.ClientConfigFromFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("read resolver configuration: %w", err)
	}
	for _, s := range conf.Servers {
		if addr, err := netip.ParseAddr(s); err == nil {
			servers = append(servers, netip.AddrPortFrom(addr.Unmap(), 53))
		}
	}
	return servers, conf.Search, nil
}

// ResolvFile is a resolv.conf(5) that is read again when it has changed. The zero value with a Path is
// ready to use, by several goroutines.
type ResolvFile struct {
	Path string

	mu      sync.Mutex
	checked time.Time
	seen    fs.FileInfo
	servers []netip.AddrPort
}

// Servers returns the nameservers the file names now; the caller must not change the slice. The file is
// looked at once a second at most. While it cannot be read, the last good list stays.
func (f *ResolvFile) Servers() []netip.AddrPort {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if now.Sub(f.checked) < time.Second {
		return f.servers
	}
	f.checked = now
	info, err := os.Stat(f.Path)
	if err != nil || f.seen != nil && os.SameFile(info, f.seen) &&
		info.ModTime().Equal(f.seen.ModTime()) && info.Size() == f.seen.Size() {
		return f.servers
	}
	if servers, _, err := ResolvConf(f.Path); err == nil {
		f.servers, f.seen = servers, info
	}
	return f.servers
}
