package main

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

const (
	clusterDomain = "cluster.local"
	// clientNamespace is the namespace of the pods that ask. No service is in it, so that a name with
	// its search domain behind is always a miss.
	clientNamespace = "app"
	namespaces      = 100
	outsideNames    = 5000
	localTTL        = 30   // seconds; what Kubernetes' own DNS gives
	outsideTTL      = 3600 // seconds; longer than a run, so that forwards stay cached
	// seed makes two runs, on two machines, ask the same questions in the same order.
	seed = 53
)

// service is one name of the cluster and its address.
type service struct {
	name, namespace string
	addr            netip.Addr
}

func (s service) fqdn() string { return s.name + "." + s.namespace + ".svc." + clusterDomain }

// outside is the i-th name beyond the cluster.
func outside(i int) (name string, addr netip.Addr) {
	i %= outsideNames
	return fmt.Sprintf("www%04d.example.test", i), netip.AddrFrom4([4]byte{198, 51, byte(100 + i/256), byte(i)})
}

// names are the services of one run, and where the files made of them are.
type names struct {
	services []service
	dir      string
}

// makeNames writes n names into dir in every form that a server wants them in.
func makeNames(dir string, n int) (*names, error) {
	set := &names{dir: filepath.Join(dir, fmt.Sprint("names-", n))}
	if err := os.MkdirAll(set.dir, 0o755); err != nil {
		return nil, err
	}
	for i := range n {
		set.services = append(set.services, service{
			name: fmt.Sprintf("svc-%05d", i), namespace: fmt.Sprint("ns", i%namespaces),
			addr: netip.AddrFrom4([4]byte{10, byte(100 + i>>16), byte(i >> 8), byte(i)}),
		})
	}
	for _, file := range []struct {
		name string
		text func(*strings.Builder)
	}{
		{"zone", set.writeZone}, {"hosts", set.writeHosts}, {"manifest.yaml", set.writeManifest},
		{"outside.zone", set.writeOutside},
	} {
		if err := write(set.path(file.name), file.text); err != nil {
			return nil, err
		}
	}
	return set, set.writeQuestions()
}

func (set *names) path(name string) string { return filepath.Join(set.dir, name) }

// write makes a file of what text writes.
func write(path string, text func(*strings.Builder)) error {
	var b strings.Builder
	text(&b)
	return os.WriteFile(path, []byte(b.String()), 0o644)
}

func (set *names) writeZone(b *strings.Builder) {
	fmt.Fprintf(b, "$ORIGIN %s.\n$TTL %d\n", clusterDomain, localTTL)
	fmt.Fprintf(b, "@ SOA ns.dns hostmaster 1 7200 1800 86400 5\n@ NS ns.dns\nns.dns A %s\n", upstreamAddr)
	for _, s := range set.services {
		fmt.Fprintf(b, "%s.%s.svc A %s\n", s.name, s.namespace, s.addr)
	}
}

func (set *names) writeOutside(b *strings.Builder) {
	fmt.Fprintf(b, "$ORIGIN example.test.\n$TTL %d\n@ SOA ns hostmaster 1 7200 1800 86400 30\n@ NS ns\nns A %s\n", outsideTTL, upstreamAddr)
	for i := range outsideNames {
		name, addr := outside(i)
		fmt.Fprintf(b, "%s. A %s\n", name, addr)
	}
}

func (set *names) writeHosts(b *strings.Builder) {
	for _, s := range set.services {
		fmt.Fprintln(b, s.addr, s.fqdn())
	}
}

// kernelServices is how many services dnsd balances in the kernel (the size of its map). Of a larger set
// the manifests declare no ports, which leaves names and addresses: what the peers are given too.
const kernelServices = 32768

func (set *names) writeManifest(b *strings.Builder) {
	ports := "ports: [{name: http, port: 80, protocol: TCP}]"
	if len(set.services) > kernelServices {
		ports = "ports: []"
	}
	for _, s := range set.services {
		fmt.Fprintf(b, "---\napiVersion: v1\nkind: Service\nmetadata: {name: %s, namespace: %s}\n", s.name, s.namespace)
		fmt.Fprintf(b, "spec: {clusterIP: %s, clusterIPs: [%[1]s], %s}\n", s.addr, ports)
	}
}

// writeQuestions writes dnsperf's input, one file a workload, each shuffled.
func (set *names) writeQuestions() error {
	// A file has 10,000 questions however many names there are, so that warming up takes the same.
	step := max(1, len(set.services)/10000)
	var local, mix, forward, near, short, far []string
	for i := 0; i < len(set.services); i += step {
		local = append(local, set.services[i].fqdn()+" A")
		mix = append(mix, set.mixed(i, i/step))
	}
	for i := range outsideNames {
		name, _ := outside(i)
		forward = append(forward, name+" A")
		far = append(far, name)
	}
	// An application looks the same few names of the cluster up again and again; dnsperf asks for every one
	// there is. Those beyond come once in a run: what was learnt of the last is no help with the next.
	for i := range 100 {
		near = append(near, set.services[i].fqdn())
		short = append(short, set.services[i].name+"."+set.services[i].namespace)
	}
	for file, questions := range map[string][]string{
		workloadLocal: local, workloadMix: mix, workloadForward: forward, workloadNear: near, workloadShort: short, workloadFar: far,
	} {
		r := rand.New(rand.NewPCG(seed, seed))
		r.Shuffle(len(questions), func(i, j int) { questions[i], questions[j] = questions[j], questions[i] })
		err := os.WriteFile(set.path(file), []byte(strings.Join(questions, "\n")+"\n"), 0o644)
		if err != nil {
			return err
		}
	}
	return nil
}

// mixed is what pods really send, by ten: six services that are there, two asked for an address family
// they do not have, and two misses of the search list, a service and a name outside.
func (set *names) mixed(i, nth int) string {
	fqdn := set.services[i].fqdn()
	search := "." + clientNamespace + ".svc." + clusterDomain
	switch nth % 10 {
	case 6, 7:
		return fqdn + " AAAA"
	case 8:
		return fqdn + search + " A"
	case 9:
		name, _ := outside(nth)
		return name + search + " A"
	}
	return fqdn + " A"
}
