package etcd

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
)

const (
	// defaultTTL is that of a key without one, in seconds. It is short, since a change is known at once.
	defaultTTL = 30
	// defaultPriority and defaultWeight are those of a key without one, as SkyDNS has it.
	defaultPriority, defaultWeight = 10, 100
)

// value is what is kept under a key. More is allowed: other programs keep notes of their own there.
type value struct {
	Host        string `json:"host"`
	Port        int    `json:"port,omitempty"`
	Priority    int    `json:"priority,omitempty"`
	Weight      int    `json:"weight,omitempty"`
	Text        string `json:"text,omitempty"`
	Mail        bool   `json:"mail,omitempty"`
	TTL         uint32 `json:"ttl,omitempty"`
	TargetStrip int    `json:"targetstrip,omitempty"`
	Group       string `json:"group,omitempty"`
}

// record is one key, read and checked.
type record struct {
	key  string
	name string // the key as a DNS name, in lower case
	// addr or alias is the host, or neither: a text beside a host that is no address counts instead of it.
	addr  netip.Addr
	alias string // in lower case, without the final dot
	text  string
	mail  bool

	port, priority uint16
	weight         int
	strip          int // labels to leave out of a target
	group          string
	ttl            uint32 // in seconds, never 0
}

// decode reads a key. lease is how long the key may live, in seconds, 0 for ever.
func decode(key, name string, data []byte, lease uint32) (*record, error) {
	var v value
	if err := json.Unmarshal(data, &v); err != nil {
		return nil, fmt.Errorf("is not a SkyDNS value such as {\"host\": \"192.0.2.1\"}: %w", err)
	}
	if v.Host == "" && v.Text == "" {
		return nil, errors.New("has neither host nor text")
	}
	for field, n := range map[string]int{"port": v.Port, "priority": v.Priority, "weight": v.Weight} {
		if n < 0 || n > math.MaxUint16 {
			return nil, fmt.Errorf("%s %d is not from 0 to 65535", field, n)
		}
	}
	r := &record{
		key: key, name: name, mail: v.Mail, port: uint16(v.Port), strip: v.TargetStrip, group: v.Group,
		priority: uint16(cmp.Or(v.Priority, defaultPriority)), weight: cmp.Or(v.Weight, defaultWeight),
		ttl: shorter(v.TTL, lease),
	}
	if addr, err := netip.ParseAddr(v.Host); err == nil {
		r.addr = addr.Unmap()
		return r, nil
	}
	if r.text = v.Text; v.Text == "" {
		r.alias = strings.ToLower(strings.TrimSuffix(v.Host, "."))
	}
	return r, nil
}

// shorter is the time to live of a key that says ttl, and lives for lease; 0 is neither.
func shorter(ttl, lease uint32) uint32 {
	switch {
	case ttl == 0 && lease == 0:
		return defaultTTL
	case ttl == 0 || lease != 0 && lease < ttl:
		return lease
	}
	return ttl
}

// target is whom an SRV or MX record of r leads to: the host, or for an address the key's own name, less
// the labels that only tell keys of one name apart.
func (r *record) target() string {
	name := cmp.Or(r.alias, r.name)
	rest := name
	for range r.strip {
		var more bool
		if _, rest, more = strings.Cut(rest, "."); !more {
			return name
		}
	}
	return rest
}

// grouped leaves out of all, in the order of their keys, those of another group than the topmost has. Who
// has no group is of every group; where the topmost disagree, so are all.
func grouped(all []*record) []*record {
	if len(all) == 0 {
		return nil
	}
	depth := func(r *record) int { return strings.Count(r.key, "/") }
	top := all[0]
	for _, r := range all {
		if depth(r) < depth(top) {
			if r.group == "" {
				break
			}
			top = r
		}
	}
	other := func(r *record) bool { return r.group != "" && r.group != top.group }
	if top.group == "" || slices.ContainsFunc(all, func(r *record) bool { return other(r) && depth(r) == depth(top) }) {
		return all
	}
	return slices.DeleteFunc(slices.Clone(all), other)
}
