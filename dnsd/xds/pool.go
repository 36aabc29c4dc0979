package xds

import (
	"crypto/sha256"
	"io"
	"runtime"
	"sync"
	"weak"
)

// pool has each distinct resource decoded once, however many streams carry it, for as long as one of
// them does. Thirty namespaces that see the same ten thousand clusters then cost one of each.
//
// What is in it is shared and never edited. It decodes one resource at a time, so that streams which
// are all sent a large push at once do not all decode it at once.
type pool[T any] struct {
	mu    sync.Mutex
	known map[digest]weak.Pointer[T]
}

// digest stands for a resource's type and bytes.
type digest [sha256.Size]byte

// get returns what raw was decoded to, by decode if nobody has it yet.
func (p *pool[T]) get(typeURL string, raw []byte, decode func() *T) *T {
	h := sha256.New()
	_, _ = io.WriteString(h, typeURL)
	_, _ = h.Write(raw)
	sum := digest(h.Sum(nil))
	p.mu.Lock()
	defer p.mu.Unlock()
	if v := p.known[sum].Value(); v != nil {
		return v
	}
	if p.known == nil {
		p.known = map[digest]weak.Pointer[T]{}
	}
	v := decode()
	p.known[sum] = weak.Make(v)
	runtime.AddCleanup(v, p.forget, sum)
	return v
}

// forget drops a resource that nobody carries any more, unless it has come back meanwhile.
func (p *pool[T]) forget(sum digest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known[sum].Value() == nil {
		delete(p.known, sum)
	}
}

// pools are those of one source.
type pools struct {
	clusters  pool[cluster]
	endpoints pool[assignment]
	listeners pool[listener]
	names     pool[name]
}
