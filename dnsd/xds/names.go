package xds

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/anypb"
)

// name is one row of Istio's name table. It is shared and never edited.
type name struct {
	err        error  // why it cannot be read
	host       string // lower case, without the final dot
	ips        []string
	kubernetes bool
	// shortname and namespace are of the Kubernetes service; a pod's record has the shortname
	// "pod.service".
	shortname, namespace string
}

// nameTable reads istio.networking.nds.v1.NameTable, a map from host to NameInfo in field 1, whose Go
// type is only in istiod's own module. Rows are shared by themselves: tables of two namespaces differ in
// a few of many.
func (p *pools) nameTable(r *anypb.Any) ([]*name, error) {
	if r.GetTypeUrl() != nameTableType {
		return nil, fmt.Errorf("is a %q, not a %s", r.GetTypeUrl(), nameTableType)
	}
	var names []*name
	err := eachField(r.GetValue(), func(num protowire.Number, entry []byte) error {
		if num != 1 {
			return nil
		}
		n := p.names.get("", entry, func() *name { return decodeEntry(entry) })
		names = append(names, n)
		return n.err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot be decoded: %w", err)
	}
	return names, nil
}

// decodeEntry reads one map entry: the host in field 1, its NameInfo in field 2.
func decodeEntry(entry []byte) *name {
	n := &name{}
	n.err = eachField(entry, func(num protowire.Number, value []byte) error {
		switch num {
		case 1:
			n.host = strings.ToLower(strings.TrimSuffix(string(value), "."))
		case 2:
			return eachField(value, n.set)
		}
		return nil
	})
	return n
}

// set takes one field of NameInfo.
func (n *name) set(num protowire.Number, value []byte) error {
	switch num {
	case 1:
		n.ips = append(n.ips, string(value))
	case 2:
		n.kubernetes = string(value) == "Kubernetes"
	case 3:
		n.shortname = string(value)
	case 4:
		n.namespace = string(value)
	}
	return nil
}

// eachField calls visit for each length-delimited field of a message and passes over the others.
func eachField(b []byte, visit func(protowire.Number, []byte) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if typ != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
				return protowire.ParseError(n)
			}
			b = b[n:]
			continue
		}
		value, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		if err := visit(num, value); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}
