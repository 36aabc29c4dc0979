package file

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"sigs.k8s.io/yaml"

	"github.com/nodens-dns/nodens/dnsd/mesh"
	"github.com/nodens-dns/nodens/dnsd/objects"
	"github.com/nodens-dns/nodens/dnsd/routes"
)

// object is what all kinds have, and where it was found.
type object struct {
	Kind       string `json:"kind"`
	Name       string `json:"name"` // of a route, which has no metadata
	APIVersion string `json:"apiVersion"`
	Metadata   struct {
		Name        string            `json:"name"`
		Namespace   string            `json:"namespace"`
		Labels      map[string]string `json:"labels"`
		Annotations map[string]string `json:"annotations"`
	} `json:"metadata"`
	Spec   json.RawMessage   `json:"spec"`
	Status json.RawMessage   `json:"status"`
	Items  []json.RawMessage `json:"items"`

	place string // file and document
	whole []byte // JSON
}

// String names the object as problems and explanations do: "ServiceEntry ns1/db1".
func (o *object) String() string {
	return o.Kind + " " + o.Metadata.Namespace + "/" + o.Metadata.Name
}

// content is that of one file of the folder.
type content struct {
	name string
	data []byte
	err  error // why there is none
}

// list reads the manifests of a folder. The error is about the folder itself.
func list(dir string) ([]content, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var manifests []content
	for _, e := range entries {
		name := e.Name()
		switch strings.ToLower(filepath.Ext(name)) {
		case ".yaml", ".yml", ".json":
		default:
			continue
		}
		if strings.HasPrefix(name, ".") { // half-written by an editor, or a ConfigMap's own
			continue
		}
		data, err := readRegular(filepath.Join(dir, name))
		if !errors.Is(err, fs.ErrNotExist) { // gone since it was listed, or a link to nowhere
			manifests = append(manifests, content{name, data, err})
		}
	}
	return manifests, nil
}

// digest tells what has been read before from what has not: decoding takes far longer, and a hundred times
// the memory.
func digest(manifests []content) [sha256.Size]byte {
	h := sha256.New()
	for _, m := range manifests {
		_, _ = fmt.Fprintf(h, "%q %d %v\n", m.name, len(m.data), m.err) // cannot fail
		_, _ = h.Write(m.data)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// decode returns what manifests hold, and their objects to remember for the next time; before is what they
// were the last time.
func decode(manifests []content, o objects.Options, before memory) (mesh.Input, memory) {
	b := newBuilder(o)
	for _, m := range manifests {
		if m.err != nil {
			b.problem(m.name, m.err.Error())
			b.torn[m.name] = true
		} else {
			b.readFile(m.name, m.data)
		}
	}
	b.restore(before)
	return b.input(), b.good.memory()
}

// readRegular reads a file, but nothing that could block: a FIFO called x.yaml must not stop dnsd.
func readRegular(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("is not a regular file")
	}
	return os.ReadFile(path)
}

func (b *builder) readFile(name string, data []byte) {
	b.file = name
	for i, doc := range documents(data) {
		place := fmt.Sprintf("%s document %d", name, i+1)
		whole, err := yaml.YAMLToJSONStrict(doc)
		if err != nil {
			b.problem(place, err.Error())
			b.torn[name] = true
			continue
		}
		if string(whole) != "null" { // only comments
			b.readObject(place, whole)
		}
	}
}

// documents splits a YAML stream at its document markers (YAML 1.2, section 9.2). A marker is always at
// the start of a line, in block scalars too, and content may follow it on its line.
func documents(data []byte) [][]byte {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	var docs [][]byte
	var doc []byte
	for line := range bytes.Lines(data) {
		rest, marked := bytes.CutPrefix(line, []byte("---"))
		if marked && (len(rest) == 0 || bytes.ContainsAny(rest[:1], " \t\r\n")) {
			if len(bytes.TrimSpace(doc)) > 0 {
				docs = append(docs, doc)
			}
			doc = nil
			line = append([]byte("   "), rest...) // columns in error messages stay true
		}
		doc = append(doc, line...)
	}
	if len(bytes.TrimSpace(doc)) > 0 {
		docs = append(docs, doc)
	}
	return docs
}

// readObject takes one object, or each item of a list.
func (b *builder) readObject(place string, whole []byte) {
	o := &object{place: place, whole: whole}
	if err := json.Unmarshal(whole, o); err != nil {
		b.problem(place, fmt.Sprintf("is not a Kubernetes object: %v", err))
		b.torn[b.file] = true
		return
	}
	if strings.HasSuffix(o.Kind, "List") && o.Items != nil {
		for i, item := range o.Items {
			b.readObject(fmt.Sprintf("%s item %d", place, i+1), item)
		}
		return
	}
	if o.Kind == kindRoute {
		o.Metadata.Name = o.Name
	}
	if o.Kind == "" || o.Metadata.Name == "" {
		b.problem(place, "has no kind or no metadata.name")
		b.torn[b.file] = true
		return
	}
	if o.Metadata.Namespace == "" {
		o.Metadata.Namespace = "default"
	}
	key := o.group() + "/" + o.String()
	if first, twice := b.seen[key]; twice {
		b.reject(o, fmt.Errorf("is declared twice; the one in %s is used", first))
		return
	}
	if err := b.decode(o); err != nil {
		b.reject(o, err)
		b.wrong[key] = true
		return
	}
	b.seen[key] = place
	b.good.add(version{key, b.file, whole})
}

// group is the API group: an object is the same in all versions of it.
func (o *object) group() string {
	group, _, _ := strings.Cut(o.APIVersion, "/")
	return group
}

// decode reads o as what it says it is, strictly: a field misspelt is an error, not a default.
func (b *builder) decode(o *object) error {
	m := objects.Meta{
		Namespace: o.Metadata.Namespace, Name: o.Metadata.Name,
		Labels: o.Metadata.Labels, Annotations: o.Metadata.Annotations, Place: o.place,
	}
	switch o.APIVersion + " " + o.Kind {
	case "networking.istio.io/v1 ServiceEntry", "networking.istio.io/v1beta1 ServiceEntry", "networking.istio.io/v1alpha3 ServiceEntry":
		return b.decodeServiceEntry(m, o)
	case "networking.istio.io/v1 DestinationRule", "networking.istio.io/v1beta1 DestinationRule", "networking.istio.io/v1alpha3 DestinationRule":
		spec := &networking.DestinationRule{}
		if err := o.unmarshal(spec); err != nil {
			return err
		}
		b.set.Put(objects.NewDestinationRule(m, spec))
	case "v1 " + kindRoute, " " + kindRoute:
		_, route, err := routes.Parse(o.whole)
		if err != nil {
			return err
		}
		b.routes = append(b.routes, route)
	case "networking.istio.io/v1 WorkloadEntry", "networking.istio.io/v1beta1 WorkloadEntry", "networking.istio.io/v1alpha3 WorkloadEntry":
		spec := &networking.WorkloadEntry{}
		if err := o.unmarshal(spec); err != nil {
			return err
		}
		b.set.Put(objects.NewWorkloadEntry(m, spec))
	case "v1 Service":
		s := &corev1.Service{}
		if err := yaml.UnmarshalStrict(o.whole, s); err != nil {
			return err
		}
		b.set.Put(objects.NewService(m, s))
	case "discovery.k8s.io/v1 EndpointSlice":
		s := &discoveryv1.EndpointSlice{}
		if err := yaml.UnmarshalStrict(o.whole, s); err != nil {
			return err
		}
		b.set.Put(objects.NewEndpointSlice(m, s))
	default:
		return fmt.Errorf("%s %s is not served from files; ServiceEntry, WorkloadEntry, DestinationRule, Service, EndpointSlice and DNS are", o.APIVersion, o.Kind)
	}
	return nil
}

func (b *builder) decodeServiceEntry(m objects.Meta, o *object) error {
	spec, status := &networking.ServiceEntry{}, &networking.ServiceEntryStatus{}
	if err := o.unmarshal(spec); err != nil {
		return err
	}
	if len(o.Status) > 0 {
		lenient := protojson.UnmarshalOptions{DiscardUnknown: true}
		if err := lenient.Unmarshal(o.Status, status); err != nil {
			return fmt.Errorf("status: %w", err)
		}
	}
	e, err := objects.NewServiceEntry(m, spec, status)
	if err != nil {
		return err
	}
	b.set.Put(e)
	return nil
}

// unmarshal reads the spec of one of Istio's kinds.
func (o *object) unmarshal(spec proto.Message) error {
	if len(o.Spec) == 0 {
		return errors.New("has no spec")
	}
	if err := protojson.Unmarshal(o.Spec, spec); err != nil {
		return fmt.Errorf("spec: %w", err)
	}
	return nil
}

// builder gathers what the files say.
type builder struct {
	set      *objects.Set
	file     string            // being read
	seen     map[string]string // group/kind namespace/name -> place
	good     *recorder         // those of seen
	wrong    map[string]bool   // keys as in seen: objects that cannot be used as they are
	torn     map[string]bool   // files with a part of which not even the name can be told
	routes   []mesh.Route
	problems []mesh.Problem
}

// kindRoute is the kind of host and path routes.
const kindRoute = "DNS"

func newBuilder(o objects.Options) *builder {
	return &builder{
		set:  objects.New(o),
		seen: map[string]string{}, good: newRecorder(), wrong: map[string]bool{}, torn: map[string]bool{},
	}
}

func (b *builder) problem(object, reason string) {
	b.problems = append(b.problems, mesh.Problem{Source: sourceName, Object: object, Reason: reason})
}

// reject reports something about o together with where o is.
func (b *builder) reject(o *object, err error) {
	b.problem(o.String(), fmt.Sprintf("%s: %v", o.place, err))
}

// input is what the objects come to, and what is wrong with the manifests.
func (b *builder) input() mesh.Input {
	in := b.set.Input()
	in.Routes = b.routes
	in.Problems = append(b.problems, in.Problems...)
	return in
}
