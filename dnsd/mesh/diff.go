package mesh

import "iter"

// Of two plans of one Compiler, these yield what they do not say with the same pointer: what the old one
// said and what the new one says in its place, either of which may be nil.

// changedNames compares by host and view.
func changedNames(old, new *Plan) iter.Seq2[*Name, *Name] {
	return changed(old.Names, new.Names, compareNames)
}

// ChangedFrontends compares by address, port, protocol and view.
func ChangedFrontends(old, new *Plan) iter.Seq2[*Frontend, *Frontend] {
	return changed(old.Frontends, new.Frontends, compareFrontends)
}

// ChangedAssignments compares by name.
func ChangedAssignments(old, new *Plan) iter.Seq2[*Assignment, *Assignment] {
	return changed(old.Assignments, new.Assignments, compareAssignments)
}

func changed[T any](old, new []*T, compare func(a, b *T) int) iter.Seq2[*T, *T] {
	return func(yield func(*T, *T) bool) {
		for len(old) > 0 || len(new) > 0 {
			var a, b *T
			order := 0
			switch {
			case len(new) == 0:
				order = -1
			case len(old) == 0:
				order = 1
			case old[0] != new[0]:
				order = compare(old[0], new[0])
			}
			if order <= 0 {
				a, old = old[0], old[1:]
			}
			if order >= 0 {
				b, new = new[0], new[1:]
			}
			if a != b && !yield(a, b) {
				return
			}
		}
	}
}
