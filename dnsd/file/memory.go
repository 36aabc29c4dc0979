package file

import (
	"maps"
	"slices"
	"strings"
)

// memory is every object as it was when it could last be used, by its key in builder.seen.
type memory map[string]version

// version is one object as a file had it.
type version struct {
	file  string
	whole []byte // JSON
}

// restore brings back what was good before and is broken now: a slip of an editor must not take away what
// works. An object whose manifest is simply gone stays gone, but not while a part of its file is
// unreadable: it may be that part.
func (b *builder) restore(before memory) {
	for _, key := range slices.Sorted(maps.Keys(before)) {
		v := before[key]
		if _, seen := b.seen[key]; seen || !b.wrong[key] && !b.torn[v.file] {
			continue
		}
		b.file = v.file
		b.readObject(v.file+" as it was", v.whole)
		_, object, _ := strings.Cut(key, "/")
		b.problem(object, v.file+" is broken, so this stays as it was; mend the file, or remove it")
	}
}
