package file

import (
	"cmp"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	networking "istio.io/api/networking/v1alpha3"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// applyRules gives each host the rule that fits it best, and says of the others that they do nothing.
func (b *builder) applyRules() {
	used := map[*rule]bool{}
	for _, h := range b.hosts {
		if r := b.ruleOf(h); r != nil {
			used[r] = true
			b.apply(r, h)
		}
	}
	for _, r := range b.rules {
		if !used[r] {
			b.note(r.object, "no host of this folder follows it: %s is not here or follows another rule", r.spec.Host)
		}
		if u := r.unapplied(); len(u) > 0 {
			b.note(r.object, "not applied: %s", strings.Join(u, ", "))
		}
	}
}

// ruleOf is the rule that fits a host best: its very name before a wildcard, the longer wildcard before
// the shorter, then a rule of the host's own namespace, then the first by namespace and name.
func (b *builder) ruleOf(h *mesh.Host) *rule {
	var best *rule
	for _, r := range b.rules {
		if matches(b.ruleHost(r), h.Name) && (best == nil || b.compareRules(r, best, h) < 0) {
			best = r
		}
	}
	return best
}

// compareRules is negative if x fits h better than y does.
func (b *builder) compareRules(x, y *rule, h *mesh.Host) int {
	return cmp.Or(
		first(b.ruleHost(x) == h.Name, b.ruleHost(y) == h.Name),
		cmp.Compare(len(b.ruleHost(y)), len(b.ruleHost(x))),
		first(x.Metadata.Namespace == h.Namespace, y.Metadata.Namespace == h.Namespace),
		strings.Compare(x.String(), y.String()),
	)
}

// first orders true before false.
func first(x, y bool) int {
	switch {
	case x == y:
		return 0
	case x:
		return -1
	}
	return 1
}

// ruleHost is the rule's host; a name without a dot is a service of the rule's namespace.
func (b *builder) ruleHost(r *rule) string {
	host := strings.ToLower(strings.TrimSuffix(r.spec.GetHost(), "."))
	if host != "" && host != "*" && !strings.Contains(host, ".") {
		host += "." + r.Metadata.Namespace + ".svc." + b.domain
	}
	return host
}

func matches(pattern, host string) bool {
	suffix, wild := strings.CutPrefix(pattern, "*")
	return pattern == host || wild && strings.HasSuffix(host, suffix)
}

// apply sets what a rule says about a host's clusters.
func (b *builder) apply(r *rule, h *mesh.Host) {
	for i := range h.Ports {
		p := &h.Ports[i]
		c := b.clusters[p.Cluster]
		if c == nil {
			continue
		}
		policy := r.policyOf(p.Number)
		c.RequiresTLS = policy.tls != nil && policy.tls.GetMode() != networking.ClientTLSSettings_DISABLE
		policy.balance(&c.Balancing)
		if policy.lb.GetSimple() == networking.LoadBalancerSettings_PASSTHROUGH {
			// The client's own choice of address counts, as with resolution NONE.
			delete(b.clusters, p.Cluster)
			p.Cluster = ""
		}
	}
	// A virtual address nothing is served on would only get in the way of the host's own.
	h.Allocate = h.Allocate && slices.ContainsFunc(h.Ports, func(p mesh.Port) bool {
		c := b.clusters[p.Cluster]
		return c != nil && !c.RequiresTLS
	})
}

// unapplied lists the fields of a rule that make no difference here.
func (r *rule) unapplied() []string {
	var out []string
	if len(r.spec.GetSubsets()) > 0 {
		out = append(out, "subsets")
	}
	if r.spec.GetWorkloadSelector() != nil {
		out = append(out, "workloadSelector")
	}
	if to := r.spec.GetExportTo(); len(to) > 0 && !slices.Contains(to, "*") {
		out = append(out, "exportTo")
	}
	general := r.spec.GetTrafficPolicy()
	out = append(out, otherFields("trafficPolicy", general.ProtoReflect(), "loadBalancer", "tls", "connectionPool",
		"outlierDetection", "portLevelSettings")...)
	out = append(out, r.policyOf(0).unapplied()...)
	for _, s := range general.GetPortLevelSettings() {
		out = append(out, otherFields("portLevelSettings", s.ProtoReflect(), "port", "loadBalancer", "tls",
			"connectionPool", "outlierDetection")...)
		out = append(out, r.policyOf(uint16(s.GetPort().GetNumber())).unapplied()...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// otherFields names the fields that are set in m, other than those known, under their parent's name.
func otherFields(parent string, m protoreflect.Message, known ...string) (out []string) {
	m.Range(func(f protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		if !slices.Contains(known, f.JSONName()) {
			out = append(out, parent+"."+f.JSONName())
		}
		return true
	})
	return out
}
