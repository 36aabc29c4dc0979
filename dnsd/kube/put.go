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
	_, wasWrong := s.wrong[called]
	delete(s.wrong, called)
	switch {
	case w.Kind == kindNamespace:
		news = !s.namespaces[i.Name]
		s.namespaces[i.Name] = true
	case w.Kind == kindNode:
		news = s.set.SetPlace(objects.Place{Node: s.options.Node, Zone: i.zone})
	case i.err != nil:
		s.wrong[called] = mesh.Problem{Source: s.options.Name, Object: called, Reason: i.err.Error()}
		s.set.Delete(w.Kind, i.Namespace, i.Name)
		return true
	default:
		news = s.set.Put(i.object)
		if w.Kind == objects.KindServiceEntry && s.set.Selects() {
			s.watchPods()
		}
	}
	return news || wasWrong
}

// refused notes that a whole kind may not be read. Nothing is waited for then, and what was read stays: the
// right to it may have been lost by mistake.
func (s *Source) refused(w *watched, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := mesh.Problem{Source: s.options.Name, Object: w.resource, Reason: reason}
	if w.listed && w.failure == nil && s.wrong[w.resource] == p {
		return
	}
	w.listed, w.failure = true, nil
	s.wrong[w.resource] = p
	s.changed()
}

// drop has the source forget an object; source.mu is held. It is false where that makes no difference: pods of
// jobs end all the time.
func (w *watched) drop(namespace, name string) (news bool) {
	s, key := w.source, namespace+"/"+name
	called := string(w.Kind) + " " + key
	_, wasWrong := s.wrong[called]
	delete(w.held, key)
	delete(s.wrong, called)
	switch w.Kind {
	case kindNamespace:
		delete(s.namespaces, name)
		return true
	case kindNode:
		return false
	}
	return s.set.Delete(w.Kind, namespace, name) || wasWrong
}
