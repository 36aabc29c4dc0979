package upstream

import (
	"testing"

	"github.com/miekg/dns"
)

// What a question costs that was asked before.
func BenchmarkCached(b *testing.B) {
	p := &pipes{handle: func(_, _ string, q *dns.Msg) *dns.Msg { return reply(q, "www.example.com. 86400 IN A 192.0.2.1") }}
	c, s, q := New(Options{}), p.at(1), query("www.example.com.", dns.TypeA)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Exchange(b.Context(), s, q); err != nil {
			b.Fatal(err)
		}
	}
}
