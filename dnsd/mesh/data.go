package mesh

import (
	"slices"
)

// Data is what a name has beside addresses and an alias: record sets, as whoever declares the name wrote
// them. It is shared and never edited.
type Data struct {
	// Services are SRV records of the name itself. Those of a host's ports are not among them: they follow
	// from Ports.
	Services []Service `json:",omitempty"`
	// Mail are MX records.
	Mail []Mail `json:",omitempty"`
	// Texts are TXT records; one that is longer than a string of DNS is cut when it is written down.
	Texts []string `json:",omitempty"`
	// Pointer is the target of a PTR record, for the names of addresses.
	Pointer string `json:",omitempty"`
}

// Service is one SRV record (RFC 2782).
type Service struct {
	Target                 string
	Port, Priority, Weight uint16
}

// Mail is one MX record (RFC 1035 section 3.3.9).
type Mail struct {
	Target     string
	Preference uint16
}

func sameData(a, b *Data) bool {
	if a == b {
		return true
	}
	return a != nil && b != nil && a.Pointer == b.Pointer && slices.Equal(a.Services, b.Services) &&
		slices.Equal(a.Mail, b.Mail) && slices.Equal(a.Texts, b.Texts)
}

// checkData returns what of a host's records can be answered, their names as a plan spells them.
func (e *ear) checkData(s *source, h *Host) *Data {
	if h.Data == nil {
		return nil
	}
	d := Data{Texts: h.Data.Texts}
	name := func(target, what string) (string, bool) {
		good, err := dnsName(target)
		if err != nil {
			e.report(s, h.Object, "%s of %s: %v; it is left out", what, h.Name, err)
		}
		return good, err == nil
	}
	var ok bool
	for _, to := range h.Data.Services {
		if to.Target, ok = name(to.Target, "service"); ok {
			d.Services = append(d.Services, to)
		}
	}
	for _, to := range h.Data.Mail {
		if to.Target, ok = name(to.Target, "mail server"); ok {
			d.Mail = append(d.Mail, to)
		}
	}
	if h.Data.Pointer != "" {
		d.Pointer, _ = name(h.Data.Pointer, "pointer")
	}
	if sameData(&d, &Data{}) {
		return nil
	}
	return &d
}

// uniteData adds a claim's records, and its time to live if that is the shortest, to the row.
func (r *row) uniteData(h *Host) {
	if h.TTL != 0 && (r.ttl == 0 || h.TTL < r.ttl) {
		r.ttl = h.TTL
	}
	switch {
	case h.Data == nil:
	case r.data == nil:
		r.data = h.Data
	default:
		d := &Data{
			Services: slices.Concat(r.data.Services, h.Data.Services),
			Mail:     slices.Concat(r.data.Mail, h.Data.Mail),
			Texts:    slices.Concat(r.data.Texts, h.Data.Texts),
			Pointer:  r.data.Pointer,
		}
		if d.Pointer == "" {
			d.Pointer = h.Data.Pointer
		}
		r.data = d
	}
}
