package world

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dns/v3"              // may be written in scripts
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3" // may be written in scripts
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"sigs.k8s.io/yaml"

	"github.com/nodens-dns/nodens/conformance"
)

// Resource is one resource of the control plane.
type Resource struct {
	Name string
	Body *anypb.Any
}

// Resources are a set's resources by type URL.
type Resources map[string][]Resource

// Captured reads what istiod said in a case; id is how the case's folder begins ("05"), variant the
// files' suffix ("hashalloc") or empty. A variant that a type was not captured in falls to the default.
func Captured(id, variant string) (Resources, error) {
	dirs, err := fs.Glob(conformance.Captures, "testdata/xds/"+id+"*")
	if err != nil {
		return nil, err
	}
	if len(dirs) != 1 {
		return nil, fmt.Errorf("captured case %q: %d folders begin so", id, len(dirs))
	}
	set := Resources{}
	for _, kind := range []string{"cds", "eds", "lds", "nds"} {
		names := []string{kind + ".pb"}
		if variant != "" {
			names = []string{kind + "-" + variant + ".pb", kind + ".pb"}
		}
		raw, err := readFirst(dirs[0], names)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var resp discoveryv3.DiscoveryResponse
		if err := proto.Unmarshal(raw, &resp); err != nil {
			return nil, fmt.Errorf("captured case %s: %s: %w", id, kind, err)
		}
		for _, body := range resp.Resources {
			name, err := nameOf(body)
			if err != nil {
				return nil, fmt.Errorf("captured case %s: %s: %w", id, kind, err)
			}
			set[body.TypeUrl] = append(set[body.TypeUrl], Resource{Name: name, Body: body})
		}
	}
	return set, nil
}

func readFirst(dir string, names []string) (raw []byte, err error) {
	for _, name := range names {
		raw, err = conformance.Captures.ReadFile(path.Join(dir, name))
		if err == nil {
			return raw, nil
		}
	}
	return nil, err
}

func nameOf(body *anypb.Any) (string, error) {
	switch body.TypeUrl {
	case ClusterType:
		var m clusterv3.Cluster
		err := proto.Unmarshal(body.Value, &m)
		return m.Name, err
	case EndpointType:
		var m endpointv3.ClusterLoadAssignment
		err := proto.Unmarshal(body.Value, &m)
		return m.ClusterName, err
	case ListenerType:
		var m listenerv3.Listener
		err := proto.Unmarshal(body.Value, &m)
		return m.Name, err
	}
	return "", nil
}

// Parse reads resources written by hand: YAML documents, each with one of the keys
//
//	cluster:  an Envoy Cluster
//	endpoints: a ClusterLoadAssignment
//	listener: an Envoy Listener
//	names:    {HOST: [ADDRESS, ...], ...}, Istio's name table; services: the same of Kubernetes services
//	garbage:  cds|eds|lds|nds, a resource of that type whose bytes are no message
func Parse(text []byte) (Resources, error) {
	set := Resources{}
	for doc := range strings.SplitSeq("\n"+string(text), "\n---") {
		var parts struct {
			Cluster, Endpoints, Listener any
			Names, Services              map[string][]string
			Garbage                      string
		}
		if strings.TrimSpace(doc) == "" {
			continue
		}
		if err := yaml.UnmarshalStrict([]byte(doc), &parts); err != nil {
			return nil, fmt.Errorf("resources: %w", err)
		}
		for _, p := range []struct {
			what any
			into proto.Message
		}{
			{parts.Cluster, &clusterv3.Cluster{}},
			{parts.Endpoints, &endpointv3.ClusterLoadAssignment{}},
			{parts.Listener, &listenerv3.Listener{}},
		} {
			if p.what == nil {
				continue
			}
			if err := set.add(p.what, p.into); err != nil {
				return nil, err
			}
		}
		if parts.Names != nil {
			set[NameTableType] = append(set[NameTableType], Resource{Body: nameTable("External", parts.Names)})
		}
		if parts.Services != nil {
			set[NameTableType] = append(set[NameTableType], Resource{Body: nameTable("Kubernetes", parts.Services)})
		}
		if parts.Garbage != "" {
			for _, url := range pushOrder {
				if shortType(url) == parts.Garbage {
					set[url] = append(set[url], Resource{Name: "garbage", Body: &anypb.Any{TypeUrl: url, Value: []byte("\xff\xff\xff")}})
				}
			}
		}
	}
	return set, nil
}

func (set Resources) add(what any, into proto.Message) error {
	text, err := yaml.Marshal(what)
	if err == nil {
		text, err = yaml.YAMLToJSON(text)
	}
	if err == nil {
		err = protojson.Unmarshal(text, into)
	}
	if err != nil {
		return fmt.Errorf("resources: %w", err)
	}
	body, err := anypb.New(into)
	if err != nil {
		return err
	}
	name, err := nameOf(body)
	set[body.TypeUrl] = append(set[body.TypeUrl], Resource{Name: name, Body: body})
	return err
}

// nameTable encodes istio.networking.nds.v1.NameTable: table is field 1, a map of NameInfo, whose ips
// are field 1 and registry is field 2.
func nameTable(registry string, names map[string][]string) *anypb.Any {
	var out []byte
	for _, host := range slices.Sorted(maps.Keys(names)) {
		var info []byte
		for _, ip := range names[host] {
			info = protowire.AppendString(protowire.AppendTag(info, 1, protowire.BytesType), ip)
		}
		info = protowire.AppendString(protowire.AppendTag(info, 2, protowire.BytesType), registry)
		var entry []byte
		entry = protowire.AppendString(protowire.AppendTag(entry, 1, protowire.BytesType), host)
		entry = protowire.AppendBytes(protowire.AppendTag(entry, 2, protowire.BytesType), info)
		out = protowire.AppendBytes(protowire.AppendTag(out, 1, protowire.BytesType), entry)
	}
	return &anypb.Any{TypeUrl: NameTableType, Value: out}
}
