package upstream

import (
	"bytes"
	"iter"
	"slices"
	"time"

	"github.com/miekg/dns"
)

// What does not exist has nothing below it (RFC 8020), so one NXDOMAIN may answer for a whole subtree.
// That is believed with care, because it is not always so (RFC 8020, section 5): some servers deny names
// that merely have no records of their own, and a nameserver may send what lies below a name that the
// public DNS denies to servers inside (split horizon). A subtree is taken for empty only when
//
//   - its top was denied itself, not at the end of an alias, with the SOA of a zone, for that SOA's time;
//   - the zone is not the root, whose denials ("local.", "internal.") are the likeliest to be overridden;
//   - two more names in it have been asked for within that time, and were denied by the same zone;
//   - nothing in it was seen to exist. One sight of something bars the cut for a day.
//
// All of it has to be found again when that time, maxNegative at most, is over. So behind the worst of
// servers a name that exists may be denied for a while, until it is among the first to be asked for; and a
// flood of random names, which the cut is for, is answered from the third on, without a place in the cache
// for each.

// barred is for how long a subtree counts as inhabited after something was seen in it.
const barred = 24 * time.Hour

// subtreeBit marks the key of what is known of everything below a name, whatever its type.
const subtreeBit = 1 << 7

// subtree is what is known of the names below one that was denied.
type subtree struct {
	zone      string // that denied it
	witness   string // a name below it that zone denied too
	empty     bool   // zone denied another
	inhabited bool   // something is there
}

// subtreeKeys returns the keys of the subtrees that the question of key lies in, first the one its own
// name is the top of, without the root. They are only lent.
func subtreeKeys(key []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		var buf [keyBytes]byte
		k := append(buf[:0], key...)
		k[0] |= subtreeBit
		k[1], k[2] = 0, 0
		for k[nameAt] != '.' && yield(k) {
			// The header moves over the label that goes.
			next := nameAt + label(k[nameAt:])
			if k[next] == 0 {
				return
			}
			copy(k[next-nameAt:], k[:nameAt])
			k = k[next-nameAt:]
		}
	}
}

// label is the length of the first label of name, which ends with a NUL, and of the dot behind it.
func label(name []byte) int {
	for i := 0; ; i++ {
		switch name[i] {
		case '\\':
			i++
		case '.':
			return i + 1
		case 0:
			return i
		}
	}
}

// topOf is the name in key, in lower case.
func topOf(key []byte) string {
	return string(key[nameAt : nameAt+bytes.IndexByte(key[nameAt:], 0)])
}

// cut looks for a subtree that the question of key lies in and that is empty.
func (c *cache) cut(key []byte, now time.Time) *entry {
	for k := range subtreeKeys(key) {
		element := c.entries[string(k)]
		if element == nil {
			continue
		}
		if e := element.Value.(*entry); e.subtree.empty && now.Before(e.expires) {
			e.use(element, now)
			return e
		}
	}
	return nil
}

// learn takes from an answer what it says of the subtrees its name lies in.
func (c *cache) learn(f *flight, now time.Time) {
	own := true
	for k := range subtreeKeys([]byte(f.key)) {
		if element := c.entries[string(k)]; element != nil {
			e := *element.Value.(*entry)
			if f.exists || f.zone != "" && dns.IsSubDomain(topOf(k), f.zone) {
				e = entry{key: e.key, stored: now, expires: now.Add(barred), subtree: subtree{inhabited: true}}
			} else if f.denied && !own {
				e.subtree.denied(topOf([]byte(f.key)), f.zone)
			}
			c.put(e, f.share, now)
		}
		if own && f.denied && f.ttl > 0 && f.zone != "." {
			c.deny(k, f, now)
		}
		own = false
	}
}

// denied notes that a name in the subtree was denied.
func (t *subtree) denied(name, zone string) {
	switch {
	case zone != t.zone:
	case t.witness == "":
		t.witness = name
	case t.witness != name:
		t.empty = true
	}
}

// deny notes that the top of a subtree was denied.
func (c *cache) deny(key []byte, f *flight, now time.Time) {
	if element := c.entries[string(key)]; element != nil && now.Before(element.Value.(*entry).expires) {
		return // it is known to be inhabited, or denied already: a denial is not drawn out by the next
	}
	c.put(entry{key: string(key), wire: f.wire, stored: now, expires: now.Add(f.ttl), subtree: subtree{zone: f.zone}}, f.share, now)
}

// existence says what a usable reply to q says of q's name: that it exists, or that the zone, whose SOA
// it has, denies it.
func existence(m *dns.Msg, q dns.Question) (exists, denied bool, zone string) {
	if s := soa(m); s != nil {
		zone = dns.CanonicalName(s.Hdr.Name)
	}
	alias := slices.ContainsFunc(m.Answer, func(rr dns.RR) bool { return rr.Header().Rrtype != dns.TypeRRSIG })
	denied = m.Rcode == dns.RcodeNameError && !alias
	exists = alias || m.Rcode == dns.RcodeSuccess && zone != ""
	if zone == dns.CanonicalName(q.Name) {
		denied = false // and yet it has a SOA: nonsense
	}
	return exists, denied, zone
}
