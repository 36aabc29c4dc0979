package main

import (
	"fmt"
	"strings"
)

// method says what the figures mean and how they came about.
func (res *results) method(b *strings.Builder) {
	fmt.Fprintf(b, `# nodens beside other DNS servers

Made by `+"`make bench-dns`"+` on %s, from %s, in %.0f minutes; medians of %d rounds of %v a run.
Machine: %s.

![the same as bars](results.svg)

`, res.began.Format("2 January 2006"), res.machine.Commit, res.took.Minutes(), res.rounds, res.each, res.machine)
	fmt.Fprintf(b, `**Figures.** In brackets the ratio to nodens of the same round (its median over the rounds): for queries
per second nodens is ahead where it is below 1, for all else where it is above. "CPU" is the run time of
all the server's threads (schedstat; their system calls and what the kernel does within those included)
by queries answered, and is the figure least disturbed by the machine. "Queries/s" is with %d
outstanding from one client; near the top the client's core is what is full, not the server's.
Most of the machine that anything else used during a run that counts: %.0f %%. Lost in all: %s.

**Surroundings.** Every server runs on core %d and everything else on core %d. Each has a pod that asks it. nodens is
the real daemon with a pod captured by the kernel half: the pod asks its nameserver, %s, and the
question ends in dnsd's socket in the pod's own namespace. A peer stands on the node, where a DNS cache
for pods stands, and its pod asks it through the veth pair; no program of nodens sees those sockets. All
forward to one nameserver beyond the node, an NSD. %d names, fixed seed; servers in turn within each workload.

**Workloads.** Local: A of every service. Cached forwards: A of %d outside names, asked before. Mix: of
ten questions six hit, two ask AAAA of a service without, one is a service and one an outside name with
the pod's search domain behind. To the service of these nodens answers with its address (the client is
spared the rest of its search list), and the outside one it asks of the pod's nameserver and remembers
for the 5 s that allows, as the hosts plugin and NodeLocal DNSCache do; the other peers have the zone and
say NXDOMAIN at once. One at a time: by one connected socket that blocks, A of 100 services. getaddrinfo:
glibc's, or musl's, both families, the pod's three search domains; 100 names of the cluster, and of those beyond each once. "Both's CPU" is the server's
and the client's, for what the kernel answers it answers at the client's expense.

**In the kernel** is the same nodens with kernelAnswers, in a world of its own on the same cores.

**Servers.** One worker each, no DNSSEC validation, no query log, otherwise as they come
(conformance/benchdns/servers.go has every line): %s.
CoreDNS has kubeadm's Corefile with a stand-in for the API server, or its hosts plugin; NodeLocal
DNSCache is the addon's Corefile on the same CoreDNS, and holds no names: with more than 9,984 it asks
for some again, over TCP.
`, outstanding, 100*res.worstForeign(), res.lost(), serverCPU, clientCPU, upstreamAddr, fewNames, outsideNames, res.versionList())
	if res.options.big > kernelServices {
		fmt.Fprintf(b, "With %d names nodens' services have no ports, for its kernel half balances %d services at most.\n", res.options.big, kernelServices)
	}
	for _, m := range res.missing {
		fmt.Fprintf(b, "Left out: %s.\n", m)
	}
	b.WriteByte('\n')
}

func (res *results) versionList() string {
	var all []string
	for _, server := range res.servers {
		if v := res.versions[server]; v != "" {
			all = append(all, server+" "+v)
		}
	}
	return strings.Join(all, "; ")
}

// worstForeign is the share of the machine that others used, in the worst run that counts.
func (res *results) worstForeign() (worst float64) {
	for _, samples := range res.samples {
		for _, s := range samples {
			worst = max(worst, s.foreign)
		}
	}
	return worst
}

// lost says who lost how many queries.
func (res *results) lost() string {
	var all []string
	for _, server := range res.servers {
		lost := 0
		for key, samples := range res.samples {
			for _, s := range samples {
				if key.server == server {
					lost += s.lost
				}
			}
		}
		if lost > 0 {
			all = append(all, fmt.Sprintf("%s %d", server, lost))
		}
	}
	if len(all) == 0 {
		return "none"
	}
	return strings.Join(all, ", ")
}
