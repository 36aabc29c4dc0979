package mesh

import "net/netip"

// binding is a frontend as it is decided: who has it, and what serves it.
type binding struct {
	host, object string
	source       *source
	serves       *assigned
}

// bindRow makes the frontends of one host in one view. A row that listeners alone tell from everybody's
// has only theirs: for the rest everybody's are its own, too.
func (b *binder) bindRow(r *row) {
	if r.headless {
		return
	}
	r.balanced = r.all != nil && r.all.balanced
	for _, addr := range r.addrs {
		for _, p := range r.ports {
			at := frontendKey{bind{addr, p.Number, p.Protocol}, r.view}
			if r.all != nil && r.source.listeners.one(at) == nil {
				if all, ok := b.frontends[frontendKey{bind: at.bind}]; ok {
					r.reach(all.serves)
				}
			} else if serves := b.serving(r, at, p.Cluster); serves != nil {
				b.bindPort(r, at, serves)
			}
		}
		if b.virtual(addr) && r.all == nil {
			b.bind(r, frontendKey{bind{addr: addr}, r.view}, b.anyPort(r))
			if r.view != "" {
				b.guard(r, addr)
			}
		}
	}
}

// guard notes that addr, if it is virtual, must have a frontend for everybody: whoever knows it
// without being allowed to see its host is refused, instead of sending packets to nowhere.
func (b *binder) guard(r *row, addr netip.Addr) {
	if _, ok := b.guarded[addr]; !ok && b.virtual(addr) {
		b.guarded[addr] = r
	}
}

func (b *binder) bindGuards() {
	for addr, r := range b.guarded {
		key := frontendKey{bind: bind{addr: addr}}
		if _, ok := b.frontends[key]; !ok {
			b.frontends[key] = binding{r.host, r.object, r.source, b.refusing("refuse", "", "")}
		}
	}
}

// bindPort puts the frontend of a host's port into the plan. Where a service has one, in whatever view, nobody
// else has: a namespace's own would come before the service's.
func (b *binder) bindPort(r *row, at frontendKey, serves *assigned) {
	if r.given {
		b.given[at.bind] = at
	} else if service, ok := b.given[at.bind]; ok {
		at = service
	}
	b.bind(r, at, serves)
}

// bind puts a frontend into the plan, unless a stronger source or an earlier host has it already.
func (b *binder) bind(r *row, at frontendKey, serves *assigned) {
	has, ok := b.frontends[at]
	if !ok {
		has = binding{r.host, r.object, r.source, serves}
		b.frontends[at] = has
	} else if has.serves != serves {
		b.conflict(r.source, r.object, r.host, "%s of %s is served for %s (%s) already, and connections reach that", at, r.host, has.host, has.object)
	}
	r.balanced = true
	if at.port != 0 {
		r.reach(has.serves)
	}
}

// serving says what connections to one declared port are spread over; nil means they are left alone.
func (b *binder) serving(r *row, at frontendKey, cluster string) *assigned {
	for _, key := range [...]frontendKey{at, {bind: at.bind}} {
		if l := r.source.listener(key); l != nil {
			if serves, known := b.listening(r.source, l); known {
				return serves
			}
		}
	}
	if cluster == "" {
		return nil
	}
	switch use, cl := b.judge(r.source, cluster, at.addr); use {
	case balance:
		return b.assign(r.source, cl)
	case absent:
		b.report(r.source, r.object, "port %d/%s of %s: the source has no cluster %q (it may still come)", at.port, at.protocol, r.host, cluster)
		if b.virtual(at.addr) {
			return b.refusing(r.source.name+"/"+cluster, cluster, r.source.name)
		}
	}
	return nil
}
