package kube

import (
	"strings"

	"github.com/nodens-dns/nodens/dnsd/mesh"
	"github.com/nodens-dns/nodens/dnsd/objects"
)

func cutKey(key string) (namespace, name string, ok bool) { return strings.Cut(key, "/") }

// put has the source know an object; source.mu is held. It is false where that makes no difference: leaders
// are elected and timestamps written in annotations all the time.
func (w *watched) put(i *item) (news bool) {
	s, key := w.source, i.Namespace+"/"+i.Name
	w.held[key] = i.ResourceVersion
	called := string(w.Kind) + " " + key
	delete(s.wrong, called)
	switch {
	case w.Kind == kindNamespace:
		s.namespaces[i.Name] = true
	case w.Kind == kindNode:
		s.set.SetPlace(objects.Place{Node: s.options.Node, Zone: i.zone})
	case i.err != nil:
		s.wrong[called] = mesh.Problem{Source: s.options.Name, Object: called, Reason: i.err.Error()}
		s.set.Delete(w.Kind, i.Namespace, i.Name)
	default:
		return s.set.Put(i.object)
	}
	return true
}

// complain has the source report what is wrong with a whole kind.
func (s *Source) complain(w *watched, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrong[w.resource] = mesh.Problem{Source: s.options.Name, Object: w.resource, Reason: reason}
	s.changed()
}

// drop has the source forget an object; source.mu is held.
func (w *watched) drop(namespace, name string) {
	s, key := w.source, namespace+"/"+name
	delete(w.held, key)
	delete(s.wrong, string(w.Kind)+" "+key)
	switch w.Kind {
	case kindNamespace:
		delete(s.namespaces, name)
		return
	case kindNode:
		return
	}
	s.set.Delete(w.Kind, namespace, name)
}
