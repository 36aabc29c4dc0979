package resolve

import (
	"time"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// Status is the state of one lookup, for whoever wants to know why a cluster has the endpoints it has.
type Status struct {
	// Resolution is what is known; its Error is always that of the newest attempt. Read only.
	mesh.Resolution
	// Success is when the newest answer came that was complete, in this run; zero if none did.
	Success time.Time
	// TTL is that answer's, as it came.
	TTL time.Duration
	// Due is when the name will be asked again; in the past if it waits for its turn.
	Due time.Time
	// Running says that it is being asked now.
	Running bool
	// Queries is how many packets' worth of questions it took so far, Failures how many attempts failed
	// since the last success.
	Queries  uint64
	Failures int
}

// Status returns the state of every lookup, sorted.
func (r *Resolver) Status() []Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]Status, len(r.sorted))
	for i, l := range r.sorted {
		all[i] = Status{
			Resolution: l.res,
			Success:    l.success,
			TTL:        l.ttl,
			Due:        l.due,
			Running:    l.running,
			Queries:    l.queries,
			Failures:   l.failures,
		}
	}
	return all
}
