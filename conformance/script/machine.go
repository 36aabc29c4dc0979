package script

import (
	"net/netip"
	"strings"
)

// machine dns=ADDR,ADDR [behind=ADDR,ADDR] [search=NAME,NAME]: an application on the node itself, called
// machine from then on; the next dnsd finds these servers in resolv.conf and behind systemd-resolved.
// machine stub ADDR SERVER: a stub resolver on the node that asks SERVER.
func machineVerb(l *Line) (string, error) {
	if l.word(0) == "stub" {
		p, err := l.w.Pod("machine")
		if err != nil {
			return "", err
		}
		return "", p.Stub(l.word(1), l.word(2))
	}
	spec, err := l.podSpec("machine")
	if err != nil {
		return "", err
	}
	var behind []netip.Addr
	for text := range strings.FieldsFuncSeq(l.options["behind"], func(r rune) bool { return r == ',' }) {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return "", err
		}
		behind = append(behind, addr)
	}
	_, err = l.w.Machine(spec, behind)
	return "", err
}
