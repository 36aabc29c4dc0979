package xds

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// choir is the streams of a source and what they last said. The goroutine of Run owns it.
type choir struct {
	source  *Source
	emit    func(mesh.Input)
	running sync.WaitGroup
	members map[string]*member
	memo    memo

	last           *mesh.Input // newest input emitted, nil before the first
	first, changed time.Time   // when the oldest and the newest change not yet emitted came; zero for none
	heard          time.Time   // when the newest of them spoke for the first time
	took           time.Duration
}

// member is one stream of the choir.
type member struct {
	*stream
	end    context.CancelFunc
	said   *state    // nil until it has spoken
	lost   error     // nil while connected
	leaves time.Time // when it is closed, zero while its namespace has pods
}

// follow opens streams for new namespaces and sets a time for those that are gone.
func (c *choir) follow(ctx context.Context) {
	c.source.mu.Lock()
	wanted := c.source.wanted
	c.source.mu.Unlock()
	for _, ns := range wanted {
		if m := c.members[ns]; m != nil {
			m.leaves = time.Time{}
			continue
		}
		m := &member{stream: c.source.newStream(ns)}
		var own context.Context
		own, m.end = context.WithCancel(ctx)
		c.running.Go(func() { m.run(own) })
		c.members[ns] = m
	}
	for ns, m := range c.members {
		if _, stays := slices.BinarySearch(wanted, ns); !stays && m.leaves.IsZero() {
			m.leaves = time.Now().Add(c.source.timing.linger)
		}
	}
	c.list()
}

// list tells Streams which there are.
func (c *choir) list() {
	var streams []*stream
	for _, m := range c.sorted() {
		streams = append(streams, m.stream)
	}
	c.source.mu.Lock()
	c.source.streams = streams
	c.source.mu.Unlock()
}

func (c *choir) sorted() []*member {
	return slices.SortedFunc(maps.Values(c.members), func(a, b *member) int { return cmp.Compare(a.namespace, b.namespace) })
}

func (c *choir) hear(r report) {
	m := c.members[r.from.namespace]
	if m == nil || m.stream != r.from {
		return // it has been closed
	}
	news := r.said != nil
	if r.said != nil {
		if m.said == nil {
			c.heard = time.Now()
		}
		m.said = r.said
	}
	if r.said != nil || r.lost != nil {
		m.unsettled.Store(false)
	}
	if (r.lost == nil) != (m.lost == nil) {
		m.lost, news = r.lost, true // the first error of several in a row will do
	}
	if news {
		c.change()
	}
}

func (c *choir) change() {
	c.changed = time.Now()
	if c.first.IsZero() {
		c.first = c.changed
	}
}

// act does what is due and returns when it wants to be called again; zero for never.
func (c *choir) act(now time.Time) (next time.Time) {
	for ns, m := range c.members {
		if !m.leaves.IsZero() && !now.Before(m.leaves) {
			m.end()
			delete(c.members, ns)
			c.list()
			if m.said != nil {
				c.change()
			}
		}
	}
	if due := c.due(); !due.IsZero() && !now.Before(due) {
		c.first, c.changed = time.Time{}, time.Time{}
		c.publish()
	} else {
		next = due
	}
	for _, m := range c.members {
		if !m.leaves.IsZero() && (next.IsZero() || m.leaves.Before(next)) {
			next = m.leaves
		}
	}
	return next
}

// due is when the changes so far are emitted. A push to several streams should be one change, so with
// more than one there is a short wait, and a longer one while any of them is in the middle of a push.
func (c *choir) due() time.Time {
	t := c.source.timing
	speaks, silent, unsettled := 0, 0, 0
	for _, m := range c.members {
		switch {
		case m.said != nil:
			speaks++
			if m.unsettled.Load() {
				unsettled++
			}
		case m.lost == nil && m.leaves.IsZero():
			silent++
		}
	}
	switch {
	case c.first.IsZero() || speaks == 0:
		return time.Time{}
	case c.last == nil && silent > 0:
		return c.heard.Add(t.patience)
	case len(c.members) == 1:
		return c.changed
	case unsettled > 0:
		return c.first.Add(2 * t.grace)
	}
	// Where it takes long to bring them together, much of the time is left for other things.
	return c.changed.Add(max(t.coalesce, 2*c.took))
}

// publish emits what the streams say, unless that is nothing new.
func (c *choir) publish() {
	began := time.Now()
	in := agree(c.views(), &c.memo)
	c.took = time.Since(began)
	in.Problems = append(in.Problems, c.lost()...)
	if c.last != nil && reflect.DeepEqual(*c.last, in) {
		return
	}
	c.last = &in
	c.emit(in)
}

// views are what the streams said, one for all that said the same.
func (c *choir) views() []*view {
	var views []*view
	for _, m := range c.sorted() {
		if m.said == nil {
			continue
		}
		if i := slices.IndexFunc(views, func(v *view) bool { return v.same(m.said) }); i >= 0 {
			views[i].namespaces = append(views[i].namespaces, m.namespace)
			continue
		}
		views = append(views, newView(m.namespace, m.said, first(views)))
	}
	return views
}

// first is one that others are like; nil if there is none.
func first(views []*view) *view {
	if len(views) == 0 {
		return nil
	}
	return views[0]
}

// lost is the control plane as a problem, for those it cannot be reached by.
func (c *choir) lost() []mesh.Problem {
	var stale, mute []string
	var why error
	for _, m := range c.sorted() {
		switch {
		case m.lost == nil:
			continue
		case m.said != nil:
			stale = append(stale, m.namespace)
		default:
			mute = append(mute, m.namespace)
		}
		if why == nil {
			why = m.lost
		}
	}
	if why == nil {
		return nil
	}
	var parts []string
	if len(stale) > 0 {
		parts = append(parts, fmt.Sprintf("not reachable for %s, serving what it last said", strings.Join(stale, ", ")))
	}
	if len(mute) > 0 {
		parts = append(parts, fmt.Sprintf("no answer yet for %s", strings.Join(mute, ", ")))
	}
	return []mesh.Problem{{
		Source: sourceName, Object: "control plane " + c.source.options.Address,
		Reason: fmt.Sprintf("%s: %v", strings.Join(parts, "; "), why),
	}}
}
