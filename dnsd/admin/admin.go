// Package admin shows what dnsd does and why: health, metrics, dumps, queries and explanations, on a unix socket
// and a local port, and the client side of it.
//
// It knows nothing of the rest of dnsd. Whoever wires it hands in functions that fill the structs below;
// the same structs come out of Client at the other end, so what `dnsd status` prints is what the daemon
// said and nothing is computed twice. All of it is read-only: no request changes anything.
package admin

import "time"

// Status is the state of one dnsd in one screen.
type Status struct {
	// Version is the daemon's version, Node the machine's name.
	Version, Node string
	// Now is the daemon's clock when it answered; ages are counted from it.
	Now time.Time
	// Started is when this process started.
	Started time.Time
	// NotReady says why /readyz fails; empty means ready.
	NotReady string `json:",omitempty"`
	Tenure   Tenure
	Kernel   Kernel
	// Sources are in order of precedence.
	Sources  []Source
	Pods     PodCount
	Names    int
	Clusters int
	// Frontends and Backends are what the kernel holds.
	Frontends, Backends int
	VIPs                VIPs
	// Queries counts DNS queries by what became of them.
	Queries  map[string]uint64 `json:",omitempty"`
	Upstream Upstream
	// Problems are all objects, pods and files that could not be used, and writes that failed.
	Problems []Problem `json:",omitempty"`
}

// Tenure is how this dnsd came to work here, and how others failed to relieve it.
type Tenure struct {
	PID int
	// From is the dnsd it has taken over from; nil if there was none.
	From *Other `json:",omitempty"`
	// Failed is the last one that was to take over from this one and did not; nil if there was none.
	Failed *Other `json:",omitempty"`
	// Refused says why the last one that knocked could not even be answered; empty if there was none.
	Refused string `json:",omitempty"`
}

// Other is another dnsd on this node.
type Other struct {
	Version string
	// PID is its process, 0 where that has no number in this one's namespace.
	PID int `json:",omitempty"`
	// At is when it was relieved, or failed to take over.
	At time.Time
	// Reason says why it failed.
	Reason string `json:",omitempty"`
}

// Kernel is the state of the kernel half.
type Kernel struct {
	// Release is the kernel's release, as uname says it.
	Release string
	// Detached says what is missing when the programs are not wholly attached; empty means attached.
	Detached string `json:",omitempty"`
	// Heartbeat is when dnsd last told the kernel it is alive; when it is old the kernel lets every
	// query go to its own nameserver.
	Heartbeat time.Time
	Features  []Feature
	// Counters count what the programs did and refused, by reason.
	Counters map[string]uint64 `json:",omitempty"`
}

// Feature is something the kernel may lack.
type Feature struct {
	Name    string
	Present bool
	// Note says what is lost without it and which kernel brings it.
	Note string `json:",omitempty"`
}

// Source is one source of names and clusters.
type Source struct {
	Name string
	// Spoke is when it last said something to this process; zero means not yet.
	Spoke time.Time `json:",omitzero"`
	// Pending means it has never spoken, so nothing is concluded from what is missing.
	Pending         bool
	Hosts, Clusters int
	// Problems counts its objects that had to be skipped.
	Problems int
	// Streams are those to its control plane, where it has one for each namespace.
	Streams []Stream `json:",omitempty"`
}

// Stream is one namespace's stream to a control plane.
type Stream struct {
	// Cluster is whose control plane it leads to, where that is another cluster's than this node's.
	Cluster   string `json:",omitempty"`
	Namespace string
	// Protocol is "delta" or "sotw"; empty before the first connection.
	Protocol string `json:",omitempty"`
	// Connected is since when; zero while it is not.
	Connected time.Time `json:",omitzero"`
	// Versions are what the control plane calls the newest of each type: cds, eds, lds, nds.
	Versions map[string]string `json:",omitempty"`
	// Error is why the last stream ended or a response was refused.
	Error string `json:",omitempty"`
}

// PodCount counts the pods of the node by state.
type PodCount struct {
	// Shared are those whose network namespace another attachment stands for.
	Captured, Balanced, Shared, Opening, Failed int
}

// VIPs is the use made of the virtual address ranges.
type VIPs struct {
	V4, V6 string
	// Used are given to a host, Resting were and may not be given again yet; Size is how many there are.
	Used, Resting, Size int
}

// Upstream is the state of the servers asked and of the cache before them.
type Upstream struct {
	Servers []UpstreamServer
	// Entries and Bytes are the size of the cache, Hits and Misses how often it helped.
	Entries, Bytes int64
	Hits, Misses   uint64
}

// UpstreamServer is one server that was asked.
type UpstreamServer struct {
	Address string
	// Down means others are tried before it.
	Down              bool
	Queries, Failures uint64
	// Error is the last failure, if the last query failed.
	Error string `json:",omitempty"`
}

// Problem is one thing that could not be used.
type Problem struct {
	// Source says who found it, Object which thing it is.
	Source, Object string
	// Reason says what is wrong and, where possible, what to do.
	Reason string
}

// NameRow is one name in the answer table.
type NameRow struct {
	// Name is fully qualified without the final dot; a wildcard starts with "*.".
	Name string
	// View is the namespace that sees the row; empty means all.
	View      string `json:",omitempty"`
	Addresses []string
	// VIP means the addresses are virtual: connections to them are balanced.
	VIP bool `json:",omitempty"`
	// CNAME is the target, where the name is an alias.
	CNAME string `json:",omitempty"`
	Ports []string
	// Source and Object say which declaration won.
	Source, Object string
}

// ClusterRow is one cluster and what the kernel does with connections to it.
type ClusterRow struct {
	Name, Source string
	// Type is Envoy's discovery type, Policy the balancing in use.
	Type, Policy string
	// Frontends are "address:port/protocol" balanced to this cluster.
	Frontends []string
	Endpoints []EndpointRow
	// Lookups are the names behind a DNS-type cluster.
	Lookups []LookupRow `json:",omitempty"`
	// Problem says why no connection is balanced to it, if so.
	Problem string `json:",omitempty"`
}

// EndpointRow is one address of a cluster.
type EndpointRow struct {
	Address string
	// From is where the address comes from; empty if the source itself gave it.
	From []Origin `json:",omitempty"`
	// Priority is Envoy's, 0 first; Weight the endpoint's own.
	Priority, Weight uint32
	// Active counts connections open now, Connections all there were, Failures handshakes that failed: of
	// this address on this node, whatever the cluster.
	Active      uint32
	Connections uint64
	Failures    uint64
	State       EndpointState
	// EjectedUntil is when an ejected endpoint is probed next.
	EjectedUntil time.Time `json:",omitzero"`
}

// EndpointState says what becomes of new connections.
type EndpointState string

// What an endpoint may be.
const (
	Serving   EndpointState = "ok"
	Standby   EndpointState = "standby"   // of a priority that is not in use
	Unhealthy EndpointState = "unhealthy" // the source says so
	Ejected   EndpointState = "ejected"   // handshakes failed, and it is only probed
)

// Origin is a name an address was looked up from.
type Origin struct {
	Name string
	// Expires is when the TTL of the newest answer ends; in the past if there was none since.
	Expires time.Time `json:",omitzero"`
	// Error is why the last lookup failed; the address is then of the last good one.
	Error string `json:",omitempty"`
}

// LookupRow is one name a cluster's endpoints come from.
type LookupRow struct {
	Name string
	// Family is Envoy's lookup family.
	Family string
	// Resolvers are asked, joined by commas; empty means the node's choice. TCP means over TCP only.
	Resolvers string `json:",omitempty"`
	TCP       bool   `json:",omitempty"`
	Addresses []string
	// Asked is when the last answer came, Expires when its TTL ends, Next when the name is asked again.
	Asked   time.Time `json:",omitzero"`
	Expires time.Time `json:",omitzero"`
	Next    time.Time `json:",omitzero"`
	// Negative means that every family said there is no address. Those here are of before; a STRICT_DNS
	// cluster does not use them.
	Negative bool `json:",omitempty"`
	// Error is why the last lookup failed; the addresses are then the last good ones.
	Error string `json:",omitempty"`
}

// PodRow is one attachment of a pod of this node.
type PodRow struct {
	// Pod is "namespace/name", or the container ID where there is no such thing.
	Pod       string
	Container string
	Interface string
	Netns     string
	// Cookie is the kernel's number for the pod's network namespace; zero while unknown.
	Cookie    uint64
	Addresses []string
	// Nameservers are those captured, with the port of the listener each is turned to.
	Nameservers []NameserverRow
	// Kernel counts what the kernel did by itself; nil where it does nothing for the pod.
	Kernel *KernelRow `json:",omitempty"`
	// State is captured, balanced, opening or failed; Reason says why it is not captured.
	State, Reason string
	Since         time.Time
	// Dropped is how many of its queries were thrown away because they were too many.
	Dropped uint64 `json:",omitempty"`
}

// KernelRow counts a pod's queries that the kernel saw first: those it answered as Declared, or as Learned
// from dnsd, and those it left to dnsd, as Unknown, Unusual, or while a query log was Watched.
type KernelRow struct {
	Declared, Learned, Unknown, Unusual, Watched uint64
}

// Query is one DNS query and what became of it.
type Query struct {
	// Time is when it came, Took how long its answer took from there.
	Time time.Time
	Took time.Duration
	// Pod asked, from Client (address:port) over Network ("udp" or "tcp"), the Nameserver (address:port).
	Pod, Client, Network, Nameserver string
	// Name and Type are the question's.
	Name, Type string
	// Rcode is the answer's, "none" if there was none.
	Rcode string
	// Source is where the answer came from: a source of the mesh, "special", "cache", "stale",
	// "upstream", "passed", "failed", "dropped", "busy" or "malformed".
	Source string
	// Object is what the name was declared by, Server the nameserver that answered.
	Object string `json:",omitempty"`
	Server string `json:",omitempty"`
	// Lost is how many queries before this one could not be shown: they came too fast.
	Lost uint64 `json:",omitempty"`
}

// NameserverRow is one captured nameserver.
type NameserverRow struct {
	Address string
	Port    uint16
}
