package names

import (
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// Generation tells this table from those that answer otherwise, for who remembers its answers: a hash of
// all that they follow from, but for those that are Fleeting, so that the next process has the same for the
// same table. It is 0 for no table and for no other. The first call takes some 100 ns for each row, the
// others nothing.
func (t *Table) Generation() uint64 {
	if t == nil {
		return 0
	}
	t.hash.Do(func() {
		h := sha256.New()
		var b digest
		b.text(t.version)
		b.text(t.domain)
		b.number(t.ttl)
		for _, p := range t.vips {
			b.text(p.String())
		}
		if t.zone != nil {
			b.text(t.zone.name)
			for _, names := range [][]string{slices.Sorted(maps.Keys(t.zone.namespaces)), t.zone.elsewhere} {
				b.number(uint32(len(names)))
				for _, name := range names {
					b.text(name)
				}
			}
		}
		for _, row := range t.rows {
			b.row(row)
			_, _ = h.Write(b) // cannot fail
			b = b[:0]
		}
		_, _ = h.Write(b) // where there is no row
		t.generation = binary.BigEndian.Uint64(h.Sum(nil)) | 1
	})
	return t.generation
}

// digest is what is hashed. Everything has its length before it, so that no two tables look alike.
type digest []byte

func (b *digest) number(n uint32) { *b = binary.BigEndian.AppendUint32(*b, n) }

func (b *digest) text(s string) {
	b.number(uint32(len(s)))
	*b = append(*b, s...)
}

func (b *digest) flags(all ...bool) {
	for _, f := range all {
		if f {
			*b = append(*b, 1)
		} else {
			*b = append(*b, 0)
		}
	}
}

func (b *digest) addresses(all []netip.Addr) {
	b.number(uint32(len(all)))
	for _, a := range all {
		b.flags(a.Is4())
		as16 := a.As16()
		*b = append(*b, as16[:]...)
	}
}

func (b *digest) ports(all []mesh.Port) {
	b.number(uint32(len(all)))
	for i := range all {
		b.text(all[i].Name)
		b.number(uint32(all[i].Number))
		*b = append(*b, byte(all[i].Protocol))
	}
}

// row adds what answers follow from: not who declared it, nor what serves it.
func (b *digest) row(r *mesh.Name) {
	b.text(r.Host)
	b.text(r.View)
	b.text(r.CNAME)
	b.flags(r.Kubernetes, r.Headless, r.Virtual, r.Data != nil)
	b.addresses(r.Addr4)
	b.addresses(r.Addr6)
	b.number(r.TTL)
	b.ports(r.Ports)
	b.number(uint32(len(r.Records)))
	for i := range r.Records {
		b.text(r.Records[i].Label)
		b.addresses(r.Records[i].Addresses)
		b.ports(r.Records[i].Ports)
	}
	if r.Data != nil {
		b.data(r.Data)
	}
}

func (b *digest) data(d *mesh.Data) {
	b.number(uint32(len(d.Services)))
	for _, s := range d.Services {
		b.text(s.Target)
		b.number(uint32(s.Port))
		b.number(uint32(s.Priority))
		b.number(uint32(s.Weight))
	}
	b.number(uint32(len(d.Mail)))
	for _, m := range d.Mail {
		b.text(m.Target)
		b.number(uint32(m.Preference))
	}
	b.number(uint32(len(d.Texts)))
	for _, text := range d.Texts {
		b.text(text)
	}
	b.text(d.Pointer)
}
