package kube

import (
	"encoding/json"
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/nodens-dns/nodens/dnsd/objects"
)

// custom is an object of a kind that is defined in the cluster itself.
type custom struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              json.RawMessage `json:"spec"`
	Status            json.RawMessage `json:"status"`
}

// customList is a list of them.
type customList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []custom `json:"items"`
}

// DeepCopyObject is there for runtime.Object. Spec and Status are read only, so that copies share them.
func (c *custom) DeepCopyObject() runtime.Object {
	d := *c
	d.ObjectMeta = *c.DeepCopy()
	return &d
}

// DeepCopyObject is there for runtime.Object, as above.
func (l *customList) DeepCopyObject() runtime.Object {
	d := *l
	d.Items = make([]custom, len(l.Items))
	for i := range l.Items {
		d.Items[i] = *l.Items[i].DeepCopyObject().(*custom)
	}
	return &d
}

// lenient knows that an API server may be newer than we are.
var lenient = protojson.UnmarshalOptions{DiscardUnknown: true}

func (c *custom) unmarshal(spec proto.Message) error {
	if len(c.Spec) == 0 {
		return errors.New("has no spec")
	}
	if err := lenient.Unmarshal(c.Spec, spec); err != nil {
		return fmt.Errorf("spec: %w", err)
	}
	return nil
}

func readServiceImport(m objects.Meta, o runtime.Object) (objects.Object, error) {
	spec := &objects.ServiceImport{}
	if err := json.Unmarshal(o.(*custom).Spec, spec); err != nil {
		return nil, fmt.Errorf("spec: %w", err)
	}
	return objects.NewServiceImport(m, spec), nil
}

func readServiceEntry(m objects.Meta, o runtime.Object) (objects.Object, error) {
	spec, status := &networking.ServiceEntry{}, &networking.ServiceEntryStatus{}
	c := o.(*custom)
	if err := c.unmarshal(spec); err != nil {
		return nil, err
	}
	if len(c.Status) > 0 {
		if err := lenient.Unmarshal(c.Status, status); err != nil {
			return nil, fmt.Errorf("status: %w", err)
		}
	}
	return objects.NewServiceEntry(m, spec, status)
}

func readWorkloadEntry(m objects.Meta, o runtime.Object) (objects.Object, error) {
	spec := &networking.WorkloadEntry{}
	if err := o.(*custom).unmarshal(spec); err != nil {
		return nil, err
	}
	return objects.NewWorkloadEntry(m, spec), nil
}

func readDestinationRule(m objects.Meta, o runtime.Object) (objects.Object, error) {
	spec := &networking.DestinationRule{}
	if err := o.(*custom).unmarshal(spec); err != nil {
		return nil, err
	}
	return objects.NewDestinationRule(m, spec), nil
}
