package xds

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

var _ = (*clusterv3.Cluster)(nil) // the types of JSON captures must be linked in

// kinds are the responses that are read, by how their files begin.
var kinds = []struct{ name, typeURL string }{
	{"cds", clusterType}, {"lds", listenerType}, {"nds", nameTableType}, {"eds", endpointType},
}

// variants are the sets of responses in a folder, by the suffix of their files; the first is the one
// without.
func variants(t *testing.T, folder fs.FS) []string {
	t.Helper()
	files, err := fs.ReadDir(folder, ".")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, f := range files {
		base, ext := strings.TrimSuffix(f.Name(), path.Ext(f.Name())), path.Ext(f.Name())
		kind, suffix, _ := strings.Cut(base, "-")
		if suffix != "" {
			suffix = "-" + suffix
		}
		isKind := slices.ContainsFunc(kinds, func(k struct{ name, typeURL string }) bool { return k.name == kind })
		// What proxyless gRPC is told is of no use to others.
		if isKind && (ext == ".pb" || ext == ".json") && suffix != "-generator-grpc" && !slices.Contains(found, suffix) {
			found = append(found, suffix)
		}
	}
	slices.Sort(found)
	return found
}

// dumpCase is what one set of responses comes to: names and frontends, after the whole of Compile.
func dumpCase(t *testing.T, folder fs.FS, variant string) string {
	t.Helper()
	st, p := &state{}, &pools{}
	var refused []string
	for _, kind := range kinds {
		u := readResponse(t, folder, kind.name, variant)
		if u == nil {
			continue
		}
		u.typeURL = kind.typeURL
		u.whole = kind.typeURL != endpointType
		if err := st.apply(p, u); err != nil {
			refused = append(refused, fmt.Sprintf("refused %s: %v\n", kind.name, err))
		}
	}
	st.crossings = newView("default", st, nil).compare()
	in := agree([]*view{newView("default", st, nil)}, &memo{})
	return dumpPlan(t, in) + strings.Join(refused, "")
}

// readResponse reads one response: of the variant, else what it has in common with the plain set. EDS is not
// there where no cluster asks for it.
func readResponse(t *testing.T, folder fs.FS, kind, variant string) *update {
	t.Helper()
	for _, name := range []string{kind + variant + ".pb", kind + variant + ".json", kind + ".pb", kind + ".json"} {
		data, err := fs.ReadFile(folder, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil && strings.HasSuffix(name, ".json") {
			data, err = fromJSON(data)
		}
		var u *update
		if err == nil && strings.Contains(name, "-delta") {
			u, err = deltaUpdate(data)
		} else if err == nil {
			u, err = wholeUpdate(data)
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return u
	}
	return nil
}

func wholeUpdate(data []byte) (*update, error) {
	m := &discoveryv3.DiscoveryResponse{}
	u := &update{}
	err := proto.Unmarshal(data, m)
	for _, r := range m.Resources {
		u.resources = append(u.resources, resource{body: r})
	}
	return u, err
}

func deltaUpdate(data []byte) (*update, error) {
	m := &discoveryv3.DeltaDiscoveryResponse{}
	u := &update{}
	err := proto.Unmarshal(data, m)
	for _, r := range m.Resources {
		u.resources = append(u.resources, resource{r.Resource, r.Name, r.Version})
	}
	return u, err
}

// fromJSON makes the binary form of a response in JSON. Messages of types that are not linked in are left
// out: nothing here reads them.
func fromJSON(data []byte) ([]byte, error) {
	var tree map[string]any
	if err := json.Unmarshal(data, &tree); err != nil {
		return nil, err
	}
	m := &discoveryv3.DiscoveryResponse{}
	resources, _ := tree["resources"].([]any)
	for _, r := range resources {
		fields, _ := r.(map[string]any)
		if fields["@type"] == nameTableType {
			m.Resources = append(m.Resources, tableFromJSON(fields))
			continue
		}
		text, err := json.Marshal(prune(fields))
		if err != nil {
			return nil, err
		}
		body := &anypb.Any{}
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(text, body); err != nil {
			return nil, err
		}
		m.Resources = append(m.Resources, body)
	}
	return proto.Marshal(m)
}

// prune drops what has a type that is not linked in.
func prune(v any) any {
	switch v := v.(type) {
	case []any:
		var kept []any
		for _, e := range v {
			if e = prune(e); e != nil {
				kept = append(kept, e)
			}
		}
		return kept
	case map[string]any:
		if url, ok := v["@type"].(string); ok {
			if _, err := protoregistry.GlobalTypes.FindMessageByURL(url); err != nil {
				return nil
			}
		}
		for key, field := range v {
			if v[key] = prune(field); v[key] == nil {
				delete(v, key)
			}
		}
	}
	return v
}

func tableFromJSON(fields map[string]any) *anypb.Any {
	text := func(b []byte, num protowire.Number, v any) []byte {
		s, _ := v.(string)
		return protowire.AppendString(protowire.AppendTag(b, num, protowire.BytesType), s)
	}
	var out []byte
	table, _ := fields["table"].(map[string]any)
	for host, v := range table {
		row, _ := v.(map[string]any)
		var info []byte
		ips, _ := row["ips"].([]any)
		for _, ip := range ips {
			info = text(info, 1, ip)
		}
		info = text(text(text(info, 2, row["registry"]), 3, row["shortname"]), 4, row["namespace"])
		entry := protowire.AppendBytes(protowire.AppendTag(text(nil, 1, host), 2, protowire.BytesType), info)
		out = protowire.AppendBytes(protowire.AppendTag(out, 1, protowire.BytesType), entry)
	}
	return &anypb.Any{TypeUrl: nameTableType, Value: out}
}

// dumpPlan is what in comes to, as a person reads it. Names of DNS-type clusters are given addresses, the
// same at each run, so that it shows what their connections would be spread over.
func dumpPlan(t *testing.T, in mesh.Input) string {
	t.Helper()
	vips := memoryVIPs(t)
	plan := mesh.Compile([]mesh.Input{in}, vips)
	answers := mesh.Input{Source: "resolve"}
	meaning := map[netip.Addr]string{}
	numbers := map[string]int{}
	for _, w := range plan.Watch {
		n, again := numbers[w.Lookup.Name]
		if !again {
			n = len(numbers) + 1
			numbers[w.Lookup.Name] = n
		}
		r := mesh.Resolution{Lookup: w.Lookup}
		if w.Lookup.Family != mesh.V6Only {
			r.Addresses = append(r.Addresses, netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}))
		}
		if w.Lookup.Family == mesh.V6Only || w.Lookup.Family == mesh.AllFamilies {
			r.Addresses = append(r.Addresses, netip.MustParseAddr("2001:db8::"+strconv.FormatInt(int64(n), 16)))
		}
		for _, a := range r.Addresses {
			meaning[a] = w.Lookup.Name
		}
		answers.Resolutions = append(answers.Resolutions, r)
	}
	plan = mesh.Compile([]mesh.Input{in, answers}, vips)
	d := &dump{meaning: meaning}
	d.names(plan)
	d.frontends(plan)
	d.assignments(plan)
	d.lookups(plan, answers)
	d.problems(plan)
	return d.String()
}

type dump struct {
	strings.Builder
	meaning map[netip.Addr]string
}

func (d *dump) line(indent int, format string, args ...any) {
	d.WriteString(strings.TrimRight(strings.Repeat("  ", indent)+fmt.Sprintf(format, args...), " ") + "\n")
}

func seenBy(view string) string {
	if view == "" {
		return ""
	}
	return " for " + view
}

func (d *dump) names(p *mesh.Plan) {
	d.line(0, "names")
	for _, n := range p.Names {
		kind := "plain"
		if n.Virtual {
			kind = "virtual"
		}
		answer := fmt.Sprint(slices.Concat(n.Addr4, n.Addr6))
		d.line(1, "%s%s %s %s", n.Host, seenBy(n.View), answer, kind)
		for _, r := range n.Records {
			d.line(2, "%s.%s %v", r.Label, n.Host, r.Addresses)
		}
	}
}

func (d *dump) frontends(p *mesh.Plan) {
	d.line(0, "frontends")
	for _, f := range p.Frontends {
		at := netip.AddrPortFrom(f.Address, f.Port).String() + "/" + f.Protocol.String()
		if f.Port == 0 {
			at = f.Address.String() + " other ports"
		}
		d.line(1, "%s%s (%s) -> %s", at, seenBy(f.View), f.Host, strings.TrimPrefix(f.Assignment, "xds/"))
	}
}

func (d *dump) assignments(p *mesh.Plan) {
	d.line(0, "clusters")
	for _, a := range p.Assignments {
		if a.Name == "refuse" {
			continue
		}
		d.line(1, "%s %s %s%s", strings.TrimPrefix(a.Name, "xds/"), a.Discovery, a.LbPolicy, extras(a.Balancing))
		for _, l := range a.Localities {
			d.line(2, "priority %d locality %s/%s/%s weight %d", l.Priority, l.Region, l.Zone, l.SubZone, l.Weight)
			for _, e := range l.Endpoints {
				unhealthy := ""
				if e.Unhealthy {
					unhealthy = " unhealthy"
				}
				d.line(3, "%s weight %d%s %s", e.Address, e.Weight, unhealthy, d.meaning[e.Address.Addr()])
			}
		}
		if len(a.Localities) == 0 {
			d.line(2, "no endpoints: refused")
		}
	}
}

// extras are what of a cluster's balancing is not the default.
func extras(b mesh.Balancing) string {
	var all []string
	add := func(on bool, format string, args ...any) {
		if on {
			all = append(all, fmt.Sprintf(format, args...))
		}
	}
	add(b.LocalityWeighted, "locality-weighted")
	add(b.HashSource, "hash=source")
	add(b.HashTable > 0, "table=%d", b.HashTable)
	add(b.Overprovisioning > 0, "overprovisioning=%d%%", b.Overprovisioning)
	if b.PanicThreshold != nil {
		add(true, "panic=%d%%", *b.PanicThreshold)
	}
	add(b.MaxConnections > 0, "max-connections=%d", b.MaxConnections)
	if o := b.Outlier; o != nil {
		add(true, "outlier={failures=%d ejection=%v..%v percent=%d}", o.Consecutive, o.BaseEjection, o.MaxEjection, o.MaxPercent)
	}
	if len(all) == 0 {
		return ""
	}
	return " " + strings.Join(all, " ")
}

func (d *dump) lookups(p *mesh.Plan, answers mesh.Input) {
	if len(p.Watch) == 0 {
		return
	}
	d.line(0, "lookups")
	for i, w := range p.Watch {
		for _, s := range w.Schedules {
			ttl := ""
			if s.RespectTTL {
				ttl = " or TTL"
			}
			d.line(1, "%s %s every %v%s jitter %v: as if %v", w.Lookup.Name, w.Lookup.Family, s.RefreshRate, ttl, s.Jitter, answers.Resolutions[i].Addresses)
		}
	}
}

func (d *dump) problems(p *mesh.Plan) {
	if len(p.Problems) == 0 {
		return
	}
	d.line(0, "problems")
	for _, q := range p.Problems {
		d.line(1, "%s: %s", q.Object, q.Reason)
	}
}
