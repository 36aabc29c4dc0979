package mesh

import (
	"hash/maphash"
	"math/bits"
	"unsafe"
)

// index finds the objects of one kind that a source has told of by what they are called. It keeps what
// it has been given as long as nothing newer says anything else, so that of what a source repeats only
// one copy stays in memory.
type index[K comparable, V any] struct {
	key  func(*V) (K, bool) // false: the object cannot be used
	same func(a, b *V) bool

	list  []V
	seed  maphash.Seed
	first []int32 // where the first of its key is in list, from 1, by open addressing: a map would have the keys again
	next  []int32 // the next of the same key, or -1; nil while every key is there once
	bad   []int32 // those without a key
}

// update takes the source's newest list and returns the keys of which it says anything new.
func (x *index[K, V]) update(list []V) map[K]bool {
	if len(list) == len(x.list) && unsafe.SliceData(list) == unsafe.SliceData(x.list) {
		return nil
	}
	n := min(len(list), len(x.list))
	head := 0
	for head < n && x.same(&x.list[head], &list[head]) {
		head++
	}
	tail := 0
	for tail < n-head && x.same(&x.list[len(x.list)-1-tail], &list[len(list)-1-tail]) {
		tail++
	}
	was, is := x.list[head:len(x.list)-tail], list[head:len(list)-tail]
	if len(was) == 0 && len(is) == 0 {
		return nil
	}
	changed := make(map[K]bool)
	next := make([]V, 0, len(list))
	next = append(next, x.list[:head]...)
	next = x.match(next, was, is, changed)
	next = append(next, x.list[len(x.list)-tail:]...)
	moved := x.moved(was, is)
	if x.list == nil {
		next = list // nothing to share yet
	}
	x.list = next
	if moved {
		x.find()
	}
	return changed
}

// match appends is to list, an object of was in the place of each that says the same, and notes the
// keys of all others.
func (x *index[K, V]) match(list, was, is []V, changed map[K]bool) []V {
	old := make(map[K][]*V, len(was))
	for i := range was {
		if k, ok := x.key(&was[i]); ok {
			old[k] = append(old[k], &was[i])
		}
	}
	for i := range is {
		k, ok := x.key(&is[i])
		switch of := old[k]; {
		case !ok:
			list = append(list, is[i])
		case len(of) > 0 && x.same(of[0], &is[i]):
			list = append(list, *of[0])
			old[k] = of[1:]
		default:
			list = append(list, is[i])
			changed[k] = true
		}
	}
	for k, left := range old {
		if len(left) > 0 {
			changed[k] = true
		}
	}
	return list
}

// moved says that the objects are not called the same in the same places any more.
func (x *index[K, V]) moved(was, is []V) bool {
	if len(was) != len(is) {
		return true
	}
	for i := range was {
		a, usedToBe := x.key(&was[i])
		if b, ok := x.key(&is[i]); a != b || !ok || !usedToBe {
			return true
		}
	}
	return false
}

// find notes where the objects are.
func (x *index[K, V]) find() {
	x.seed, x.next, x.bad = maphash.MakeSeed(), nil, nil
	x.first = make([]int32, 1<<bits.Len(uint(len(x.list)+len(x.list)/2)))
	for i := len(x.list) - 1; i >= 0; i-- {
		k, ok := x.key(&x.list[i])
		if !ok {
			x.bad = append(x.bad, int32(i))
			continue
		}
		at := x.place(k)
		if other := x.first[at] - 1; other >= 0 {
			if x.next == nil {
				x.next = make([]int32, len(x.list))
				for j := range x.next {
					x.next[j] = -1
				}
			}
			x.next[i] = other
		}
		x.first[at] = int32(i) + 1
	}
}

// place is where in first the objects called k are, or would be.
func (x *index[K, V]) place(k K) int {
	mask := uint64(len(x.first) - 1)
	for i := maphash.Comparable(x.seed, k); ; i++ {
		at := int(i & mask)
		if x.first[at] == 0 {
			return at
		}
		if other, _ := x.key(&x.list[x.first[at]-1]); other == k {
			return at
		}
	}
}

// all yields the objects called k, in the source's order.
func (x *index[K, V]) all(k K) func(yield func(*V) bool) {
	return func(yield func(*V) bool) {
		if x.first == nil {
			return
		}
		i := x.first[x.place(k)] - 1
		for i >= 0 && yield(&x.list[i]) {
			if x.next == nil {
				return
			}
			i = x.next[i]
		}
	}
}

// one returns the first object called k, or nil.
func (x *index[K, V]) one(k K) *V {
	for v := range x.all(k) {
		return v
	}
	return nil
}

// keys yields each key there is, once.
func (x *index[K, V]) keys(yield func(K) bool) {
	for _, i := range x.first {
		if i == 0 {
			continue
		}
		if k, _ := x.key(&x.list[i-1]); !yield(k) {
			return
		}
	}
}

// twins yields the keys that several objects have.
func (x *index[K, V]) twins(yield func(K) bool) {
	if x.next == nil {
		return
	}
	for _, i := range x.first {
		if i == 0 || x.next[i-1] < 0 {
			continue
		}
		if k, _ := x.key(&x.list[i-1]); !yield(k) {
			return
		}
	}
}
