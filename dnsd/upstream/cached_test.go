package upstream

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// What Cached gives is what Exchange would, but for what it leaves to the caller.
func TestCachedIsWhatExchangeGives(t *testing.T) {
	for what, p := range map[string]*pipes{
		"an address behind a CNAME": answering("www.example.com. 300 IN CNAME web.example.com.", "web.example.com. 60 IN A 192.0.2.1"),
		"a denial":                  denied("example.com. 60 IN SOA ns. h. 1 1 1 1 20"),
	} {
		synctest.Test(t, func(t *testing.T) {
			c, s := New(Options{}), p.at(1)
			asked := Query{Name: "www.example.com.", Qtype: dns.TypeA, RD: true}
			buf := make([]byte, 0, maxMessage)
			if wire := c.Cached(s, asked, buf, maxMessage); wire != nil {
				t.Fatalf("%s: %x before anything was asked", what, wire)
			}
			exchange(t, c, p)
			time.Sleep(11 * time.Second)
			got := parse(c.Cached(s, asked, buf, maxMessage))
			want := exchange(t, c, p)
			want.Id, want.RecursionAvailable, want.Compress = got.Id, got.RecursionAvailable, false
			if got.String() != want.String() {
				t.Errorf("%s: got\n%v\nwant\n%v", what, got, want)
			}
			other := asked
			other.DO = true
			if c.Cached(s, other, buf, maxMessage) != nil || c.Cached(p.at(2), asked, buf, maxMessage) != nil || c.Cached(s, asked, buf, 50) != nil {
				t.Errorf("%s: given to another question, to another's client, or beyond the limit", what)
			}
			if n := testing.AllocsPerRun(100, func() { c.Cached(s, asked, buf, maxMessage) }); n != 0 {
				t.Errorf("%s: %v allocations", what, n)
			}
			time.Sleep(48 * time.Second)
			if wire := c.Cached(s, asked, buf, maxMessage); wire != nil {
				t.Errorf("%s: %x although its time is nearly over", what, wire)
			}
		})
	}
}
