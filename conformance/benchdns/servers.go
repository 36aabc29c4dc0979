package main

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// driver is one program under test and all that is set about it. What is not in its configuration is as
// the program has it by default. All get one worker, no DNSSEC validation and no query log; nothing else
// is done for or against anybody.
type driver struct {
	name string
	// program is what is run, pkg the Debian package that has it (none: it is built).
	program, pkg string
	// version are the arguments that make it tell its version.
	version []string
	// forwards: it answers names it does not know from the nameserver beyond.
	forwards bool
	// holds: it holds the names itself, and does not ask for them.
	holds bool
	// command writes the configuration and returns the command that runs the server in the foreground.
	// nodens has none: a world knows how to run it.
	command func(job) ([]string, error)
	// kube: it wants a Kubernetes API server.
	kube bool
	// inKernel: it is nodens with kernelAnswers, in a world of its own.
	inKernel bool
}

// job is what a server is to do.
type job struct {
	// dir is the server's own folder.
	dir string
	// addr is the address to answer on, port 53; upstream is the nameserver to forward to, port 53.
	addr, upstream netip.Addr
	set            *names
	program        string
	// api is the Kubernetes API server's URL, where the driver wants one.
	api string
}

// drivers are in the order of the tables.
var drivers = []driver{
	{name: "nodens", program: "dnsd", forwards: true, holds: true},
	{name: "nodens, in the kernel", program: "dnsd", forwards: true, holds: true, inKernel: true},
	{name: "CoreDNS, kubernetes", program: "coredns", version: []string{"-version"}, forwards: true, holds: true, kube: true, command: corednsKubernetes},
	{name: "CoreDNS, hosts", program: "coredns", version: []string{"-version"}, forwards: true, holds: true, command: corednsHosts},
	{name: "NodeLocal DNSCache", program: "coredns", version: []string{"-version"}, forwards: true, command: nodeLocal},
	{name: "unbound", program: "unbound", pkg: "unbound", version: []string{"-V"}, forwards: true, holds: true, command: unbound},
	{name: "dnsmasq", program: "dnsmasq", pkg: "dnsmasq-base", version: []string{"-v"}, forwards: true, holds: true, command: dnsmasq},
	{name: "knot-resolver", program: "kresd", pkg: "knot-resolver", version: []string{"-V"}, forwards: true, holds: true, command: knotResolver},
	{name: "bind9", program: "named", pkg: "bind9", version: []string{"-v"}, forwards: true, holds: true, command: bind9},
	{name: "pdns-recursor", program: "pdns_recursor", pkg: "pdns-recursor", version: []string{"--version"}, forwards: true, holds: true, command: pdnsRecursor},
	{name: "NSD", program: "nsd", pkg: "nsd", version: []string{"-v"}, holds: true, command: nsd},
}

// conf writes a configuration file into the job's folder and returns its path.
func (j job) conf(name, format string, args ...any) (string, error) {
	path := filepath.Join(j.dir, name)
	return path, os.WriteFile(path, fmt.Appendf(nil, format, args...), 0o644)
}

func (j job) coredns(format string, args ...any) ([]string, error) {
	path, err := j.conf("Corefile", format, args...)
	return []string{j.program, "-quiet", "-conf", path}, err
}

// corednsKubernetes is the Corefile that kubeadm installs.
func corednsKubernetes(j job) ([]string, error) {
	return j.coredns(`.:53 {
    bind %[1]s
    errors
    health %[1]s:8080 {
        lameduck 5s
    }
    ready %[1]s:8181
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        endpoint %[3]s
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 30
        startup_timeout 60s
    }
    prometheus %[1]s:9153
    forward . %[2]s {
        max_concurrent 1000
    }
    cache 30 {
        disable success cluster.local
        disable denial cluster.local
    }
    loop
    reload
    loadbalance
}
`, j.addr, j.upstream, j.api)
}

// corednsHosts is the leanest way CoreDNS has to answer names it is given. What is not in the file it
// asks beyond, for by itself the plugin says SERVFAIL.
func corednsHosts(j job) ([]string, error) {
	return j.coredns(`.:53 {
    bind %[1]s
    errors
    hosts %[3]s cluster.local {
        ttl 30
        reload 0
        fallthrough
    }
    forward . %[2]s {
        max_concurrent 1000
    }
    cache 30 {
        disable success cluster.local
    }
}
`, j.addr, j.upstream, j.set.path("hosts"))
}

// nodeLocal is the Corefile of the Kubernetes addon. It holds no names: it asks the cluster's DNS, over
// TCP, and remembers.
func nodeLocal(j job) ([]string, error) {
	return j.coredns(`cluster.local:53 {
    errors
    cache {
        success 9984 30
        denial 9984 5
    }
    reload
    loop
    bind %[1]s
    forward . %[2]s {
        force_tcp
    }
    prometheus %[1]s:9253
    health %[1]s:8080
}
.:53 {
    errors
    cache 30
    reload
    loop
    bind %[1]s
    forward . %[2]s
    prometheus %[1]s:9253
}
`, j.addr, j.upstream)
}

func unbound(j job) ([]string, error) {
	path := filepath.Join(j.dir, "unbound.conf")
	err := write(path, func(b *strings.Builder) {
		fmt.Fprintf(b, `server:
  directory: %q
  chroot: ""
  username: ""
  pidfile: ""
  use-syslog: no
  logfile: "log"
  interface: %s
  access-control: 0.0.0.0/0 allow
  num-threads: 1
  module-config: "iterator"
  local-zone: "test." nodefault
  local-zone: "cluster.local." static
  local-data: "cluster.local. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5"
`, j.dir, j.addr)
		for _, s := range j.set.services {
			fmt.Fprintf(b, "  local-data: \"%s. %d IN A %s\"\n", s.fqdn(), localTTL, s.addr)
		}
		fmt.Fprintf(b, "remote-control:\n  control-enable: no\nforward-zone:\n  name: \".\"\n  forward-addr: %s\n", j.upstream)
	})
	return []string{j.program, "-d", "-c", path}, err
}

func dnsmasq(j job) ([]string, error) {
	path, err := j.conf("dnsmasq.conf", `listen-address=%s
bind-interfaces
user=root
pid-file=
no-hosts
no-resolv
no-poll
addn-hosts=%s
local=/cluster.local/
local-ttl=%d
server=%s
cache-size=10000
`, j.addr, j.set.path("hosts"), localTTL, j.upstream)
	return []string{j.program, "--keep-in-foreground", "--conf-file=" + path}, err
}

// knotResolver denies the search list's domains by policy, for its hints are not a zone: what is not
// among them is asked of the nameserver beyond. The cache is the smallest it comes with.
func knotResolver(j job) ([]string, error) {
	path, err := j.conf("kresd.conf", `net.listen('%s', 53, { kind = 'dns' })
modules = { 'hints > iterate' }
log_level('err')
trust_anchors.remove('.')
cache.open(100 * MB, 'lmdb://%s/cache')
hints.add_hosts('%s')
hints.ttl(%d)
policy.add(policy.suffix(policy.DENY, policy.todnames({
  'app.svc.cluster.local', 'local.svc.cluster.local', 'local.cluster.local', 'test.svc.cluster.local', 'test.cluster.local',
})))
policy.add(policy.all(policy.STUB('%s')))
`, j.addr, j.dir, j.set.path("hosts"), localTTL, j.upstream)
	return []string{j.program, "-n", "-c", path, j.dir}, err
}

func bind9(j job) ([]string, error) {
	path, err := j.conf("named.conf", `options {
  directory "%[1]s";
  session-keyfile "%[1]s/session.key";
  pid-file none;
  listen-on { %[2]s; };
  listen-on-v6 { none; };
  allow-query { any; };
  allow-recursion { any; };
  forward only;
  forwarders { %[3]s; };
  dnssec-validation no;
  empty-zones-enable no;
  minimal-responses yes;
};
controls { };
logging { channel nowhere { null; }; category default { nowhere; }; };
zone "cluster.local" { type primary; file "%[4]s"; };
`, j.dir, j.addr, j.upstream, j.set.path("zone"))
	return []string{j.program, "-f", "-n", "1", "-c", path}, err
}

func pdnsRecursor(j job) ([]string, error) {
	_, err := j.conf("recursor.conf", `local-address=%s
allow-from=0.0.0.0/0
dont-query=
auth-zones=cluster.local=%s
forward-zones-recurse=.=%s
threads=1
pdns-distributes-queries=no
dnssec=off
hint-file=no
security-poll-suffix=
daemon=no
write-pid=no
socket-dir=%s
quiet=yes
disable-syslog=yes
loglevel=2
`, j.addr, j.set.path("zone"), j.upstream, j.dir)
	return []string{j.program, "--config-dir=" + j.dir}, err
}

// nsd is a server of zones and forwards nothing. It is also what the others forward to, which is why it
// has the names outside, though it is not asked for them in its own row.
func nsd(j job) ([]string, error) {
	path, err := j.conf("nsd.conf", `server:
  ip-address: %[1]s
  server-count: 1
  username: ""
  chroot: ""
  database: ""
  pidfile: ""
  zonesdir: "%[2]s"
  xfrdir: "%[2]s"
  xfrdfile: "%[2]s/xfrd.state"
  zonelistfile: "%[2]s/zone.list"
  logfile: "%[2]s/log"
  rrl-ratelimit: 0
remote-control:
  control-enable: no
zone:
  name: cluster.local
  zonefile: "%[3]s"
zone:
  name: example.test
  zonefile: "%[4]s"
`, j.addr, j.dir, j.set.path("zone"), j.set.path("outside.zone"))
	return []string{j.program, "-d", "-c", path}, err
}
