// Package mesh turns what the sources say into one plan that names and connections both follow.
//
// It speaks xDS words (cluster, endpoint, locality, priority), reads no clock, no file and no socket
// except through VIPs, and imports nothing but the standard library.
//
// A source emits a whole Input each time; it never edits one it has emitted. Compile reads the newest
// Input of every source and returns a Plan nobody edits either. All rules of precedence live in
// Compile, so whoever answers a query or balances a connection has none left to apply.
package mesh

import (
	"net/netip"
	"time"
)

// Input is everything one source knows at one moment. It is immutable once emitted and must survive a
// JSON round trip unchanged: the last one of each source is kept on disk over a restart.
type Input struct {
	// Source is the source's name: "file", "xds", "resolve".
	Source string
	// Pending means the source has not spoken yet: nothing may be concluded from what is missing, and what it
	// said in an earlier life stays. Only Problems count of such an Input.
	Pending bool `json:",omitempty"`
	// Hosts are names and what stands behind their ports.
	Hosts []Host `json:",omitempty"`
	// Listeners are addresses bound to clusters directly; within one source they override Hosts.
	Listeners []Listener `json:",omitempty"`
	// Clusters are what Hosts and Listeners of this same Input refer to by name.
	Clusters []Cluster `json:",omitempty"`
	// Resolutions are answers to the lookups an earlier Plan asked for (source "resolve" only).
	Resolutions []Resolution `json:",omitempty"`
	// Routes are host and path routes for the node's HTTP proxy.
	Routes []Route `json:",omitempty"`
	// Zones are the domains of which the source knows every name.
	Zones []Zone `json:",omitempty"`
	// Problems are objects the source had to skip, each with its name and the reason.
	Problems []Problem `json:",omitempty"`
}

// Problem is one object that could not be used. It is shown in status, never fatal.
type Problem struct {
	// Source and Object say which object: Object reads like `ServiceEntry ns1/db1` or `cluster "x"`.
	Source, Object string
	// Reason says what is wrong with it and, where possible, what to do.
	Reason string
	// Conflict is the host that the object claims something for which another object has, and counts for
	// more with; empty where nobody stands in the way.
	Conflict string `json:",omitempty"`
}

// Protocol is a transport protocol. The zero value is "any", used only for undeclared ports.
type Protocol uint8

// The protocols a port can have; the numbers are IANA's.
const (
	AnyProtocol Protocol = 0
	TCP         Protocol = 6
	UDP         Protocol = 17
)

// Host is one DNS name and what it stands for, as one object of a source declares it.
type Host struct {
	// Name is lower case, fully qualified, without the final dot; "*.example.com" is a wildcard.
	Name string
	// Object names the declaring object, for explanations and errors.
	Object string
	// Namespace is the declaring object's namespace, or empty where the source has none.
	Namespace string `json:",omitempty"`
	// ExportTo lists the namespaces that see the host; empty means all of them.
	ExportTo []string `json:",omitempty"`
	// Kubernetes marks a Service of the cluster: found by short names of its namespace and expansion
	// in others, and its in-domain names are answered here whatever the type.
	Kubernetes bool `json:",omitempty"`
	// Imported marks a service of a set of clusters, which has no short names. What such a one and one of the
	// cluster itself are called, and their addresses, no other object of the source takes from them.
	Imported bool `json:",omitempty"`
	// Addresses are what the source announces as the host's own. They are adopted, never ours to give.
	// A headless service lists its ready endpoints here.
	Addresses []netip.Addr `json:",omitempty"`
	// Allocate asks for a virtual address pair when no source announces an address.
	Allocate bool `json:",omitempty"`
	// Headless means Addresses are the endpoints themselves: connections to them are left alone.
	Headless bool `json:",omitempty"`
	// ExternalName is the target of a CNAME (a Kubernetes ExternalName service), without the final dot.
	ExternalName string `json:",omitempty"`
	// Ports are the declared ports.
	Ports []Port `json:",omitempty"`
	// Records are names below the host: hostname.subdomain of a headless service's pods.
	Records []Record `json:",omitempty"`
	// TTL is that of its records, in seconds; 0 means what the node has for all.
	TTL uint32 `json:",omitempty"`
	// Data is what it has beside addresses and ExternalName.
	Data *Data `json:",omitempty"`
}

// Port is one declared port of a host.
type Port struct {
	// Name is the port's name, used in SRV records; may be empty.
	Name     string `json:",omitempty"`
	Number   uint16
	Protocol Protocol
	// Cluster names the cluster of the same Input that serves the port; empty means connections to it
	// are left alone (ORIGINAL_DST, resolution NONE, headless).
	Cluster string `json:",omitempty"`
}

// Record is an address record of a label below its host.
type Record struct {
	// Label is the first label or labels, without the host: "web-0".
	Label     string
	Addresses []netip.Addr
	// Ports are the ports of this endpoint, for SRV records.
	Ports []Port `json:",omitempty"`
}

// Listener binds one address and port to a cluster or to weighted clusters, as an LDS tcp_proxy does.
type Listener struct {
	Name string
	// View is the one namespace it is for; empty means every namespace without one of its own for the
	// same address and port.
	View     string `json:",omitempty"`
	Address  netip.Addr
	Port     uint16
	Protocol Protocol
	Clusters []WeightedCluster
}

// WeightedCluster is a cluster's share of a listener's connections.
type WeightedCluster struct {
	Name   string
	Weight uint32
}

// DiscoveryType says where a cluster's endpoints come from; the words are Envoy's.
type DiscoveryType string

// Envoy's discovery types, as far as they are served.
const (
	Static      DiscoveryType = "STATIC" // EDS too, once its endpoints are known
	StrictDNS   DiscoveryType = "STRICT_DNS"
	LogicalDNS  DiscoveryType = "LOGICAL_DNS"
	OriginalDst DiscoveryType = "ORIGINAL_DST"
)

// LbPolicy says how connections are spread over a cluster's endpoints; the words are Envoy's.
type LbPolicy string

// Envoy's policies, as far as they are served; any other is reported and served as LEAST_REQUEST.
const (
	RoundRobin   LbPolicy = "ROUND_ROBIN"
	LeastRequest LbPolicy = "LEAST_REQUEST"
	Random       LbPolicy = "RANDOM"
	RingHash     LbPolicy = "RING_HASH"
	Maglev       LbPolicy = "MAGLEV"
)

// Balancing says how connections are spread over endpoints, in Envoy's terms. It is comparable only by
// its fields; Outlier and PanicThreshold are shared and never edited.
type Balancing struct {
	LbPolicy LbPolicy
	// LocalityWeighted means a locality's weight counts (Envoy's locality_weighted_lb_config).
	LocalityWeighted bool `json:",omitempty"`
	// HashSource means RING_HASH and MAGLEV hash the client's address (tcp_proxy's hash_policy
	// source_ip). Without it there is nothing to hash and they are RANDOM, as in Envoy.
	HashSource bool `json:",omitempty"`
	// HashTable is the least number of entries of a ring, or the size of a Maglev table, as the control
	// plane asks for it; 0 means what suits the number of endpoints.
	HashTable uint32 `json:",omitempty"`
	// Overprovisioning, in percent, says how much of a priority may be unhealthy before the next one
	// gets a share; 0 means Envoy's 140.
	Overprovisioning uint32 `json:",omitempty"`
	// PanicThreshold, in percent: with fewer healthy endpoints than this all of a priority are used,
	// healthy or not. nil means Envoy's 50; 0 turns it off.
	PanicThreshold *uint32 `json:",omitempty"`
	// MaxConnections is how many connections of this node may be open at once; 0 means any number.
	MaxConnections uint32 `json:",omitempty"`
	// Affinity is how long a client that comes back is sent to the endpoint it had (a Kubernetes
	// Service's sessionAffinity ClientIP); 0 means none.
	Affinity time.Duration `json:",omitempty"`
	// Outlier says when an endpoint is ejected; nil means this node's default.
	Outlier *Outlier `json:",omitempty"`
}

// Outlier is Envoy's outlier detection as far as handshakes can tell. Zero fields mean the defaults
// named beside them.
type Outlier struct {
	Consecutive  uint32        `json:",omitempty"` // failed handshakes in a row that eject: 5
	BaseEjection time.Duration `json:",omitempty"` // of the first ejection, more of each further one: 30 s
	MaxEjection  time.Duration `json:",omitempty"` // 300 s
	MaxPercent   uint32        `json:",omitempty"` // of the endpoints, but always one: 10
}

// Cluster is a group of endpoints connections are balanced over.
type Cluster struct {
	Name      string
	Discovery DiscoveryType
	Balancing
	Localities []Locality `json:",omitempty"`
	// DNS holds how the names of a DNS-type cluster are looked up; nil otherwise.
	DNS *DNS `json:",omitempty"`
	// RequiresTLS means the control plane demands that the client speaks mTLS, which a balancer in the
	// kernel cannot: the cluster is left alone and reported.
	RequiresTLS bool `json:",omitempty"`
}

// Locality is a group of endpoints in one place, with one weight and one priority.
type Locality struct {
	Region, Zone, SubZone string `json:",omitempty"`
	Weight                uint32 `json:",omitempty"` // 0 means 1
	Priority              uint32 `json:",omitempty"` // 0 is the first choice
	Endpoints             []Endpoint
}

// Endpoint is one address, or in a DNS-type cluster one name, with a port.
type Endpoint struct {
	// Address is an IP literal, or a DNS name to look up in DNS-type clusters.
	Address string
	Port    uint16 // 0 means the port the client asked for
	Weight  uint32 `json:",omitempty"` // 0 means 1
	// Unhealthy endpoints get no connections (Envoy: UNHEALTHY, DRAINING, TIMEOUT).
	Unhealthy bool `json:",omitempty"`
	// RequiresTLS endpoints are left out and reported.
	RequiresTLS bool `json:",omitempty"`
}

// DNS says how the names of a DNS-type cluster are looked up and kept fresh, in Envoy's terms.
type DNS struct {
	Family    LookupFamily     `json:",omitempty"`
	Resolvers []netip.AddrPort `json:",omitempty"` // in order; empty means the node's choice
	UseTCP    bool             `json:",omitempty"`
	Schedule  Schedule
}

// Schedule says when a lookup is repeated. Zero fields mean the defaults named beside them.
type Schedule struct {
	RefreshRate time.Duration `json:",omitempty"` // 5 s
	RespectTTL  bool          `json:",omitempty"`
	MinRefresh  time.Duration `json:",omitempty"` // floor for TTLs: 1 s
	Jitter      time.Duration `json:",omitempty"` // added at random below this: 0
	FailureBase time.Duration `json:",omitempty"` // 1 s, or RefreshRate if that is shorter
	FailureMax  time.Duration `json:",omitempty"` // RefreshRate; ten times FailureBase when that is set
}

// LookupFamily says which address families a lookup asks for; Envoy's five.
type LookupFamily string

// Envoy's lookup families. Auto: IPv6, and IPv4 only if IPv6 gave no address.
const (
	Auto        LookupFamily = "AUTO"
	V4Only      LookupFamily = "V4_ONLY"
	V6Only      LookupFamily = "V6_ONLY"
	V4Preferred LookupFamily = "V4_PREFERRED"
	AllFamilies LookupFamily = "ALL"
)

// Lookup identifies one thing to look up; equal lookups of many clusters are done once.
type Lookup struct {
	// Name is lower case and without the final dot, always asked fully qualified.
	Name   string
	Family LookupFamily
	// Resolvers is the ordered list joined by commas ("192.0.2.1:53,192.0.2.2:53"), or empty for the
	// node's choice; a string so that a Lookup can be a map key.
	Resolvers string `json:",omitempty"`
	UseTCP    bool   `json:",omitempty"`
}

// Watch is a lookup some cluster needs, with the schedules of all clusters that want it; the resolver
// asks when the earliest of them is due.
type Watch struct {
	Lookup    Lookup
	Schedules []Schedule // sorted, distinct, never empty
	// Ordered means that it matters which address is first: a LOGICAL_DNS cluster is among those that
	// want it. To all others the same addresses in another order are the same answer.
	Ordered bool `json:",omitempty"`
}

// Resolution is the state of one lookup.
type Resolution struct {
	Lookup Lookup
	// Addresses is the last good answer in the order the server gave it, families as Lookup.Family
	// says. Kept over failures and over negative answers.
	Addresses []netip.Addr `json:",omitempty"`
	// Negative means the newest outcome was a definite "no such name or data" from every family
	// asked: a STRICT_DNS cluster drops Addresses, a LOGICAL_DNS cluster keeps them.
	Negative bool `json:",omitempty"`
	// Error is why the newest attempt failed; empty after success. For status only: it changes nothing.
	Error string `json:",omitempty"`
}

// Plan is what follows from all inputs together. It is sorted, so equal inputs give equal plans, and
// immutable once returned, with all that it points to. What a Compiler has to say again in its next plan
// it says with the same pointer: whoever compares two plans need not look behind those.
type Plan struct {
	// Partial means a source has not spoken yet: nothing may be removed on the word of this plan.
	Partial bool
	// Names is what DNS answers.
	Names []*Name
	// Frontends is what connect() is balanced on.
	Frontends []*Frontend
	// Assignments are the endpoints behind the frontends, addresses only, no names.
	Assignments []*Assignment
	// Watch is what must be looked up for the DNS-type clusters in use.
	Watch []Watch
	// Routes are those of all sources, the strongest first, and of each by object.
	Routes []Route
	// Zones are the domains of which every name is known: of each the strongest source's word.
	Zones []Zone
	// Problems is every object skipped, by a source or by Compile.
	Problems []Problem
}

// Declarer is an object that declares a host.
type Declarer struct{ Source, Object string }

// Name is what one DNS name answers in one view. Empty Addr4 and Addr6 mean NODATA for addresses, unless
// CNAME is set.
type Name struct {
	// Host is lower case without the final dot; "*." first for a wildcard.
	Host string
	// View is the namespace that sees this; empty means every namespace without a row of its own.
	View string
	// Source and Object say who declared it.
	Source, Object string
	// Also are the objects of other sources that declare the host, and count for less.
	Also []Declarer
	// Namespace, Kubernetes and Headless as in Host. A headless service without an address or a record has
	// no endpoint that is ready: there is no such name then, as Kubernetes has it.
	Namespace  string
	Kubernetes bool
	Headless   bool
	// Addr4 and Addr6 are the addresses to answer, sorted. A virtual address that could only refuse,
	// because all endpoints are of the other family, is not among them. Virtual says that connections
	// to them are balanced, so that records which bypass it (HTTPS, SVCB) must be NODATA, and AAAA is
	// only for pods with IPv6.
	Addr4, Addr6 []netip.Addr
	Virtual      bool
	// CNAME is the target of an ExternalName service.
	CNAME string
	// Ports and Records as in Host, merged over all objects of the host; so are TTL and Data.
	Ports   []Port
	Records []Record
	TTL     uint32
	Data    *Data
}

// Frontend is an address and port pods connect to. Port 0 with AnyProtocol stands for every port the
// host did not declare: the connection keeps its port. Only addresses that are never routed have one.
type Frontend struct {
	Address  netip.Addr
	Port     uint16
	Protocol Protocol
	// View is as in Name.
	View string
	// Host is the name the address belongs to, or the listener's name.
	Host string
	// Assignment names the Assignment that serves it. One with no endpoints refuses connections.
	Assignment string
}

// Assignment is a cluster with every name resolved: what its connections are spread over.
type Assignment struct {
	// Name is unique in the plan; Cluster is the name its source gave.
	Name, Cluster, Source string
	Discovery             DiscoveryType
	Balancing
	Localities []AssignedLocality
	// Lookups are what the cluster's names are asked for, sorted: where addresses come from.
	Lookups []Lookup
	// Warming means there are no endpoints because no name behind it has been looked up yet, which is
	// not the same as none: what served its frontends before serves them until then.
	Warming bool
	// Cold means that it is warming, and not even a failure has come of any lookup so far.
	Cold bool
}

// AssignedLocality is a Locality with addresses only.
type AssignedLocality struct {
	Region, Zone, SubZone string
	Weight, Priority      uint32
	Endpoints             []AssignedEndpoint
}

// AssignedEndpoint is one address; port 0 means the port the client asked for.
type AssignedEndpoint struct {
	Address netip.AddrPort
	Weight  uint32
	// Unhealthy endpoints get connections only in a panic. They count when a priority's health does.
	Unhealthy bool
}
