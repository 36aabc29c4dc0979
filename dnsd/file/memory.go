package file

import (
	"bytes"
	"compress/flate"
	"encoding/json"
	"strings"

	"github.com/nodens-dns/nodens/dnsd/mesh"
	"github.com/nodens-dns/nodens/dnsd/objects"
)

// memory is every object as it was when it could last be used: versions as JSON, deflated, since all of it is
// kept for as long as dnsd runs, and hardly ever is any of it read.
type memory []byte

// version is one object as a file had it.
type version struct {
	Key   string // as in builder.seen
	File  string
	Whole json.RawMessage
}

// recorder makes a memory.
type recorder struct {
	text    bytes.Buffer
	deflate *flate.Writer
	encode  *json.Encoder
}

func newRecorder() *recorder {
	r := &recorder{}
	r.deflate, _ = flate.NewWriter(&r.text, flate.BestSpeed) // a level there is
	r.encode = json.NewEncoder(r.deflate)
	return r
}

// add cannot fail: what is written has been read as JSON, and goes into memory.
func (r *recorder) add(v version) { _ = r.encode.Encode(v) }

func (r *recorder) memory() memory {
	_ = r.deflate.Close()
	return bytes.Clone(r.text.Bytes()) // without the room to grow
}

// all yields what m has, in the order it was added.
func (m memory) all(yield func(version) bool) {
	versions := json.NewDecoder(flate.NewReader(bytes.NewReader(m)))
	for {
		var v version
		if versions.Decode(&v) != nil || !yield(v) { // the end
			return
		}
	}
}

// restore brings back what was good before and is broken now: a slip of an editor must not take away what
// works. An object whose manifest is simply gone stays gone, but not while a part of its file is
// unreadable: it may be that part.
func (b *builder) restore(before memory) {
	if len(b.wrong)+len(b.torn) == 0 {
		return
	}
	for v := range before.all {
		if _, seen := b.seen[v.Key]; seen || !b.wrong[v.Key] && !b.torn[v.File] {
			continue
		}
		b.file = v.File
		b.readObject(v.File+" as it was", v.Whole)
		_, object, _ := strings.Cut(v.Key, "/")
		b.problem(object, v.File+" is broken, so this stays as it was; mend the file, or remove it")
	}
}

// recall is the input of all that m has.
func recall(o objects.Options, m memory) mesh.Input {
	b := newBuilder(o)
	for v := range m.all {
		b.file = v.File
		b.readObject(v.File, v.Whole)
	}
	return b.input()
}
