package routes

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"strings"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// Object is what a user writes: the paths of one host, and where they lead.
//
//	kind: DNS
//	apiVersion: v1
//	name: dns-test1
//	host: node1.com
//	paths:
//	- {address: 10.1.1.10, service: service1, port: 8010}
type Object struct {
	Kind       string `json:"kind"`
	APIVersion string `json:"apiVersion"`
	// Name is the object's own: lower case, digits, hyphens and dots.
	Name string `json:"name"`
	// Host is the DNS name that is served.
	Host  string `json:"host"`
	Paths []Path `json:"paths"`
}

// Path is one path of a host.
type Path struct {
	// Path is what requests begin with; empty means that it is called like the service. The service sees
	// what comes behind it.
	Path string `json:"path,omitempty"`
	// Address is where the service is. Without one, Service is a host of the mesh, or short for a Service
	// of the cluster: cart, cart.shop.
	Address string `json:"address,omitempty"`
	Service string `json:"service,omitempty"`
	Port    int    `json:"port"`
}

// Parse reads an object in JSON, strictly: a field that is not known is an error, and so is whatever could
// not stand in a proxy's configuration as it is.
func Parse(data []byte) (*Object, mesh.Route, error) {
	d := json.NewDecoder(strings.NewReader(string(data)))
	d.DisallowUnknownFields()
	var o Object
	if err := d.Decode(&o); err != nil {
		return nil, mesh.Route{}, fmt.Errorf("is no DNS object: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, mesh.Route{}, errors.New("is more than one object")
	}
	switch {
	case o.Kind != "DNS" || o.APIVersion != "v1" && o.APIVersion != "":
		return nil, mesh.Route{}, fmt.Errorf("is of kind %q %q, not DNS v1", o.Kind, o.APIVersion)
	case !objectName.MatchString(o.Name) || len(o.Name) > 253:
		return nil, mesh.Route{}, fmt.Errorf("name %q is not of lower case letters, digits, hyphens and dots", o.Name)
	case len(o.Paths) == 0:
		return nil, mesh.Route{}, errors.New("has no paths")
	}
	r := mesh.Route{Object: "DNS " + o.Name, Host: strings.ToLower(strings.TrimSuffix(o.Host, "."))}
	for i, p := range o.Paths {
		path, err := p.route()
		if err != nil {
			return nil, mesh.Route{}, fmt.Errorf("paths[%d]: %w", i, err)
		}
		r.Paths = append(r.Paths, path)
	}
	return &o, r, check(&r)
}

func (p *Path) route() (mesh.RoutePath, error) {
	if p.Port < 1 || p.Port > 65535 {
		return mesh.RoutePath{}, fmt.Errorf("port %d is not from 1 to 65535", p.Port)
	}
	if p.Path == "" && p.Service == "" {
		return mesh.RoutePath{}, errors.New("has neither path nor service: one of them says what it is called")
	}
	if p.Address == "" && p.Service == "" {
		return mesh.RoutePath{}, errors.New("has neither address nor service: one of them says where it leads")
	}
	to := mesh.RoutePath{Path: "/" + strings.Trim(cmp.Or(p.Path, p.Service), "/") + "/", Service: p.Service, Port: uint16(p.Port)}
	if to.Path == "//" {
		to.Path = "/"
	}
	if p.Address != "" {
		addr, err := netip.ParseAddr(p.Address)
		if err != nil || addr.Zone() != "" || addr.IsUnspecified() {
			return mesh.RoutePath{}, fmt.Errorf("address %q is no IP address; a host of the mesh goes into service, without address", p.Address)
		}
		to.Address = addr.Unmap()
	}
	return to, nil
}

var (
	objectName = regexp.MustCompile(`^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$`)
	hostName   = regexp.MustCompile(`^[a-z0-9_]([-a-z0-9_]{0,61}[a-z0-9_])?(\.[a-z0-9_]([-a-z0-9_]{0,61}[a-z0-9_])?)*$`)
	pathName   = regexp.MustCompile(`^/([A-Za-z0-9_~-][A-Za-z0-9._~-]*/)*$`)
	service    = regexp.MustCompile(`^[A-Za-z0-9_]([-.A-Za-z0-9_]*[A-Za-z0-9_])?$`)
)

// check says why a route could not be rendered as it stands. What it lets through has no character that
// means anything to a proxy but itself.
func check(r *mesh.Route) error {
	if !hostName.MatchString(r.Host) || len(r.Host) > 253 {
		return fmt.Errorf("host %q is no DNS name such as node1.com", r.Host)
	}
	if _, err := netip.ParseAddr(r.Host); err == nil {
		return fmt.Errorf("host %q is an address, not a name", r.Host)
	}
	for _, p := range r.Paths {
		switch {
		case !pathName.MatchString(p.Path) || len(p.Path) > 512:
			return fmt.Errorf("path %q may have letters, digits and -._~ between its slashes, and no part that begins with a dot", p.Path)
		case p.Service != "" && !service.MatchString(p.Service) || len(p.Service) > 253:
			return fmt.Errorf("service %q is no name", p.Service)
		case p.Port == 0 || !p.Address.IsValid() && p.Service == "":
			return fmt.Errorf("path %s leads nowhere", p.Path)
		}
	}
	return nil
}
