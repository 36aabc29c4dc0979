package script

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/nodens-dns/nodens/conformance/world"
)

// ads put NAME FILE: serves hand-written resources under a name. ads drop NAME, ads clear.
// ads stop, ads start: the control plane goes, and comes back at the same address.
// ads settled: fails until a client has acknowledged everything. ads verdicts, ads connects.
// ads offers: what clients said they have, at each subscription.
// ads start [tls] [token=T] [sotw]: $ADSCA is its certificate then; without delta.
// Of a set put with ns=NAMESPACE only clients of that namespace are told.
// With at=west all that is about another cluster's, which is at port 15011 once it is started.
func adsVerb(l *Line) (string, error) {
	plane := l.w.ADS
	if l.options["at"] == "west" {
		plane = l.w.West
	}
	switch l.word(0) {
	case "set":
		set, err := world.Captured(l.word(1), l.word(2))
		if err != nil {
			return "", err
		}
		plane.PutFor(l.options["ns"], l.word(1), set)
		return "", nil
	case "put":
		set, err := world.Parse([]byte(l.ts.ReadFile(l.word(2))))
		if err != nil {
			return "", err
		}
		plane.PutFor(l.options["ns"], l.word(1), set)
		return "", nil
	case "drop":
		plane.Put(l.word(1), nil)
		return "", nil
	case "clear":
		plane.Clear()
		return "", nil
	case "stop":
		plane.Stop()
		return "", nil
	case "start":
		m := world.Manner{Token: l.options["token"], OnlySotw: l.has("sotw")}
		if l.has("tls") {
			m.CAFile = l.ts.Getenv("ADSCA")
		}
		return "", plane.StartAs(m)
	}
	return adsShow(l, plane)
}

// adsShow is what the control plane has seen.
func adsShow(l *Line, plane *world.ControlPlane) (string, error) {
	switch l.word(0) {
	case "settled":
		return "settled\n", plane.Settled()
	case "connects":
		return fmt.Sprintln(plane.Connects()), nil
	case "offers":
		return counted(plane.Offers()), nil
	case "verdicts":
		var b strings.Builder
		for _, v := range plane.Verdicts() {
			fmt.Fprintln(&b, v)
		}
		return b.String(), nil
	}
	return "", usage("ads set|put|drop|clear|stop|start|settled|verdicts|connects|offers ...")
}

// zone set NAME TYPE TTL DATA ...: replaces the internet's records of a name and type.
// zone del NAME.
// zone feel NAME|NAME/TYPE|@SERVER MOOD [DURATION]: a world.Mood; without MOOD, good behaviour again.
// zone queries [name=] [type=] [transport=] [server=] [from=POD]: the queries so far, and their number.
// zone forget: empties that list.
func zoneVerb(l *Line) (string, error) {
	z := l.w.Zone
	switch l.word(0) {
	case "set":
		var ttl uint32
		if _, err := fmt.Sscan(l.word(3), &ttl); err != nil || len(l.args) < 5 {
			return "", usage("zone set NAME TYPE TTL DATA ...")
		}
		return "", z.Set(l.word(1), l.word(2), ttl, l.args[4:]...)
	case "del":
		z.Delete(l.word(1))
		return "", nil
	case "feel":
		m := world.Mood{Kind: l.word(2)}
		if m.Kind == "delay" {
			var err error
			if m.Delay, err = time.ParseDuration(l.word(3)); err != nil {
				return "", err
			}
		}
		z.Feel(l.word(1), m)
		return "", nil
	case "forget":
		z.Forget()
		return "", nil
	case "queries":
		return l.queries()
	}
	return "", usage("zone set|del|feel|queries|forget ...")
}

func (l *Line) queries() (string, error) {
	from := map[netip.Addr]string{}
	for _, name := range l.w.PodNames() {
		p, err := l.w.Pod(name)
		if err != nil {
			continue
		}
		for _, prefix := range p.Addresses {
			from[prefix.Addr()] = name
		}
	}
	var b strings.Builder
	n := 0
	for _, q := range l.w.Zone.Queries() {
		who := from[q.From]
		if who == "" {
			who = q.From.String()
		}
		row := map[string]string{"name": q.Name, "type": q.Type, "transport": q.Transport, "server": q.Server.String(), "from": who}
		if !l.matches(row) {
			continue
		}
		n++
		fmt.Fprintf(&b, "%s %s %s server %s from %s\n", q.Name, q.Type, q.Transport, q.Server, who)
	}
	return fmt.Sprintf("%scount %d\n", b.String(), n), nil
}

// matches says whether every option of the line is a field of the row.
func (l *Line) matches(row map[string]string) bool {
	for k, v := range l.options {
		if row[k] != v {
			return false
		}
	}
	return true
}
