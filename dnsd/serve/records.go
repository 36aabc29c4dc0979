package serve

import (
	"strings"

	"github.com/miekg/dns"

	"github.com/nodens-dns/nodens/dnsd/names"
)

// sets writes down what owner has beside addresses and a pointer, and the addresses that go with it.
func sets(owner string, a *names.Answer) (answer, glue []dns.RR) {
	seen := map[string]bool{}
	for _, s := range a.Services {
		answer = append(answer, &dns.SRV{
			Hdr: header(owner, dns.TypeSRV, a.TTL), Priority: s.Priority, Weight: s.Weight, Port: s.Port, Target: s.Target,
		})
		if !seen[s.Target] { // one target may have several ports
			glue = append(append(glue, addresses(s.Target, a.TTL, s.A)...), addresses(s.Target, a.TTL, s.AAAA)...)
		}
		seen[s.Target] = true
	}
	for _, m := range a.Mail {
		answer = append(answer, &dns.MX{Hdr: header(owner, dns.TypeMX, a.TTL), Preference: m.Preference, Mx: m.Target})
		if !seen[m.Target] {
			glue = append(append(glue, addresses(m.Target, a.TTL, m.A)...), addresses(m.Target, a.TTL, m.AAAA)...)
		}
		seen[m.Target] = true
	}
	for _, text := range a.Texts {
		answer = append(answer, &dns.TXT{Hdr: header(owner, dns.TypeTXT, a.TTL), Txt: cutText(text)})
	}
	return answer, glue
}

// cutText cuts a text into strings of the length DNS allows (RFC 1035 section 3.3), spelt as the library
// wants them: a backslash would begin an escape.
func cutText(text string) []string {
	const most = 255
	var all []string
	for len(text) > most {
		all, text = append(all, text[:most]), text[most:]
	}
	all = append(all, text)
	for i := range all {
		all[i] = strings.ReplaceAll(all[i], `\`, `\\`)
	}
	return all
}
