package main

import (
	"slices"
	"strings"
)

var zones = []string{"sky.test", "10.in-addr.arpa"}

// keys are those that both read.
const keys = `
/skydns/test/sky/web/1 {"host":"192.0.2.1","port":8080,"weight":10,"ttl":60}
/skydns/test/sky/web/2 {"host":"192.0.2.2","port":8080,"weight":30,"ttl":60}
/skydns/test/sky/web/6 {"host":"2001:db8::6","port":8080,"priority":20,"ttl":60}
/skydns/test/sky/one {"host":"192.0.2.3","ttl":60}
/skydns/test/sky/plain {"host":"192.0.2.4"}
/skydns/test/sky/mixed/a {"host":"192.0.2.5","ttl":60}
/skydns/test/sky/mixed/b {"host":"192.0.2.6","ttl":20}
/skydns/test/sky/alias {"host":"one.sky.test","ttl":60}
/skydns/test/sky/chain {"host":"alias.sky.test","ttl":60}
/skydns/test/sky/out {"host":"far.example","ttl":60}
/skydns/test/sky/loop {"host":"loop.sky.test","ttl":60}
/skydns/test/sky/rails/1 {"host":"one.sky.test","port":80,"ttl":60}
/skydns/test/sky/rails/2 {"host":"web.sky.test","port":80,"ttl":60}
/skydns/test/sky/both {"host":"192.0.2.7","ttl":60}
/skydns/test/sky/both/x {"host":"192.0.2.8","ttl":60}
/skydns/test/sky/odd/x {"host":"192.0.2.10","ttl":60}
/skydns/test/sky/odd/y {"host":"one.sky.test","ttl":60}
/skydns/test/sky/post/1 {"host":"mx.sky.test","mail":true,"priority":5,"ttl":60}
/skydns/test/sky/post/2 {"host":"192.0.2.11","mail":true,"ttl":60,"targetstrip":1}
/skydns/test/sky/mx {"host":"192.0.2.12","ttl":60}
/skydns/test/sky/text/1 {"text":"one","ttl":60}
/skydns/test/sky/text/2 {"text":"two","ttl":60}
/skydns/test/sky/noted {"host":"192.0.2.13","text":"beside an address","ttl":60}
/skydns/test/sky/named {"host":"one.sky.test","text":"beside a name","ttl":60}
/skydns/test/sky/ext/3b5ca8c0 {"host":"192.0.2.14","text":"heritage=external-dns","targetstrip":1,"ttl":60}
/skydns/test/sky/dom/a {"host":"192.0.2.20","group":"g1","ttl":60}
/skydns/test/sky/dom/sub/b {"host":"192.0.2.21","group":"g2","ttl":60}
/skydns/test/sky/dom/sub/c {"host":"192.0.2.22","ttl":60}
/skydns/test/sky/torn/a {"host":"192.0.2.30","group":"g1","ttl":60}
/skydns/test/sky/torn/b {"host":"192.0.2.31","group":"g2","ttl":60}
/skydns/test/sky/srv/_tcp/_http/1 {"host":"one.sky.test","port":80,"ttl":60}
/skydns/test/sky/deep/a/b/c {"host":"192.0.2.40","ttl":60}
/skydns/test/sky/wild/* {"host":"192.0.2.41","ttl":60}
/skydns/test/sky/dns/apex/1 {"host":"192.0.2.50","ttl":60}
/skydns/arpa/in-addr/10/0/0/9 {"host":"mx.sky.test","ttl":60}
`

var types = []string{"A", "AAAA", "SRV", "MX", "TXT", "CNAME", "PTR"}

// questions are all names of keys, what lies between them and the zones, and some that nobody has.
func questions() []string {
	names := []string{"nothing.sky.test", "below.one.sky.test", "any.wild.sky.test", "*.web.sky.test", "other.test", "8.0.0.10.in-addr.arpa"}
	for line := range strings.Lines(keys) {
		key, _, ok := strings.Cut(line, " ")
		if !ok {
			continue
		}
		labels := strings.Split(strings.TrimPrefix(key, "/skydns/"), "/")
		slices.Reverse(labels)
		for i := range labels {
			name := strings.Join(labels[i:], ".")
			if slices.ContainsFunc(zones, func(zone string) bool { return name == zone || strings.HasSuffix(name, "."+zone) }) && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names
}

// reasons are what dnsd means to answer otherwise, and why; the first that fits counts.
var reasons = []struct {
	why  string
	fits func(name, qtype, theirs, ours string) bool
}{
	{"only the name of an address points anywhere; a pointer beside an alias or an address would say what nobody wrote", func(_, qtype, _, _ string) bool {
		return qtype == "PTR"
	}},
	{"a key * stands for all names beside it that have none, and leads nowhere itself; CoreDNS takes it for a name, and a * in a question for every key", func(name, _, theirs, _ string) bool {
		return strings.HasPrefix(name, "*.") || strings.Contains(name, "wild.sky.test") || strings.Contains(theirs, "*.wild")
	}},
	{"the name of an address has a pointer, and nothing else; names above it have nothing", func(name, _, _, _ string) bool {
		return strings.HasSuffix(name, "in-addr.arpa")
	}},
	{"an alias of itself is none", func(name, _, _, _ string) bool { return name == "loop.sky.test" }},
	{"a text beside a name counts instead of it, for every type", func(name, qtype, _, _ string) bool {
		return name == "named.sky.test" && qtype == "CNAME"
	}},
	{"a mail server is no alias of the name whose mail it takes", func(name, qtype, _, _ string) bool {
		return strings.HasSuffix(name, "post.sky.test") && (qtype == "A" || qtype == "CNAME")
	}},
	{"a name that has records of some type is not denied for another (RFC 8020), and an alias is answered as such to who asks for it", func(_, qtype, theirs, _ string) bool {
		return qtype == "CNAME" && theirs == "NXDOMAIN"
	}},
	{"an alias is said also where its target has no such record (RFC 2308 section 2.2)", func(_, _, theirs, ours string) bool {
		return theirs == "NODATA" && strings.Contains(ours, " CNAME ")
	}},
	{"beside an alias there is nothing, and there is one of them (RFC 1034 section 3.6.2): addresses and texts count for more, and instead of several aliases those behind them are answered", func(name, _, theirs, _ string) bool {
		return strings.Contains(theirs, name+". 60 CNAME ")
	}},
	{"the records of a name have one TTL, the shortest (RFC 2181 section 5.2), and 30 s where no key says any, since a change is known at once", func(_, _, theirs, ours string) bool {
		return untimed(theirs) == untimed(ours)
	}},
}

// untimed is an answer without its TTLs.
func untimed(answer string) string {
	records := strings.Split(answer, ", ")
	for i, rr := range records {
		if f := strings.Fields(rr); len(f) > 2 {
			records[i] = strings.Join(slices.Concat(f[:1], f[2:]), " ")
		}
	}
	slices.Sort(records)
	return strings.Join(records, ", ")
}

func reason(name, qtype, theirs, ours string) string {
	for _, r := range reasons {
		if r.fits(name, qtype, theirs, ours) {
			return r.why
		}
	}
	return ""
}
