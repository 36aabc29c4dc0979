package main

// differences are all that are known, each with its reason.
var differences = []difference{
	{
		why:   "SRV of a service's, endpoint's or pod's own name: the specification has it of ports only; CoreDNS lists all of them",
		names: []string{"*.shop.svc.", "*.*.shop.svc.", "*.*.pod."}, types: "SRV", ours: "NOERROR, SOA of cluster.local.", other: "NOERROR, ",
	},
	{
		why:   "an address of a port's name: no such record is specified, and none is of use",
		names: []string{"_*._*.*.shop.svc."}, types: "A AAAA", ours: "NOERROR, SOA of cluster.local.", other: "NOERROR, _",
	},
	{
		why:   "a port of one endpoint: answered, as that of the service is",
		names: []string{"_sql._tcp.db-0.db.shop.svc."}, ours: "NOERROR", other: "NXDOMAIN",
	},
	{
		why:   "a CNAME is the answer to questions of every type (RFC 1034 section 3.6.2), and followed as far as it leads (RFC 6604: the code is that of its end)",
		names: []string{"outside.shop.svc.", "inside.shop.svc.", "dangling.shop.svc."}, ours: "", other: "NOERROR",
	},
	{
		why:   "a name has the same code for every type: what exists for TXT exists for A (RFC 8020)",
		names: []string{"", "svc.", "pod.", "*.svc.", "*.pod.", "dns-version."}, ours: "NOERROR, SOA", other: "NXDOMAIN",
	},
	{
		why:   "ns.dns is what CoreDNS calls itself",
		names: []string{"ns.dns."}, ours: "NXDOMAIN", other: "NOERROR",
	},
	{
		why:   "what the asker's own search list made of a name is answered at once, for the name that was meant",
		names: []string{"cart.shop.svc.cluster.local.shop.svc.", "cart.shop.shop.svc."}, ours: "NOERROR", other: "NXDOMAIN",
	},
	{
		why:   "the reverse name of an address that has a PTR record exists",
		names: []string{"*.in-addr.arpa.", "*.ip6.arpa."}, types: "A AAAA CNAME SRV TXT MX HTTPS", ours: "NOERROR", other: "NXDOMAIN",
	},
	{
		why:   "PTR of an endpoint that is called nothing: specified for those with a hostname only",
		names: []string{"71.113.0.203.in-addr.arpa."}, types: "PTR", ours: "NXDOMAIN", other: "NOERROR",
	},
}
