package script

import (
	"fmt"
	"strings"
	"time"

	"github.com/nodens-dns/nodens/conformance/app"
)

// dig POD NAME [TYPE] [@SERVER] [+tcp] [+connected] [+short] [edns=SIZE] [timeout=DURATION]: one query,
// fully qualified, sent once. Without a server it goes to the first of the pod's resolv.conf.
func digVerb(l *Line) (string, error) {
	p, err := l.pod(0)
	if err != nil {
		return "", err
	}
	q, err := l.question(1)
	if err != nil {
		return "", err
	}
	r, err := p.Dig(q)
	if err != nil {
		return "", err
	}
	if l.has("+short") {
		return r.Short(), nil
	}
	return r.String(), nil
}

func (l *Line) question(from int) (app.Question, error) {
	q := app.Question{TCP: l.has("+tcp"), Connected: l.has("+connected"), Kept: l.has("+kept")}
	edns, err := l.number("edns", 0)
	if err != nil {
		return q, err
	}
	q.EDNS = uint16(edns)
	if q.Timeout, err = l.duration("timeout"); err != nil {
		return q, err
	}
	for _, word := range l.words[min(from, len(l.words)):] {
		switch {
		case strings.HasPrefix(word, "@"):
			q.Server = word[1:]
		case strings.HasPrefix(word, "+"):
		case q.Name == "":
			q.Name = word
		default:
			q.Type = word
		}
	}
	if q.Name == "" {
		return q, usage("dig POD NAME [TYPE] [@SERVER] [+tcp] [+connected] [+short] ...")
	}
	return q, nil
}

func (l *Line) duration(key string) (time.Duration, error) {
	if l.options[key] == "" {
		return 0, nil
	}
	return time.ParseDuration(l.options[key])
}

// resolve POD NAME: looks the name up with the C library, as getaddrinfo does, and prints addresses.
func resolveVerb(l *Line) (string, error) {
	p, err := l.pod(0)
	if err != nil {
		return "", err
	}
	found, err := p.Getent(l.word(1))
	if err != nil {
		return "", err
	}
	return strings.Join(found.Addresses, "\n") + "\n", nil
}

// lookup POD NAME: looks the name up with a resolver that counts: prints addresses, then the number of
// queries it sent.
func lookupVerb(l *Line) (string, error) {
	p, err := l.pod(0)
	if err != nil {
		return "", err
	}
	found, err := p.Lookup(l.word(1))
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s\nqueries %d\n", strings.Join(found.Addresses, "\n"), found.Queries), nil
}

// garbage POD udp|tcp [SERVER]: throws what is no query at a nameserver; counts replies.
func garbageVerb(l *Line) (string, error) {
	p, err := l.pod(0)
	if err != nil {
		return "", err
	}
	r, err := p.Garbage(l.word(1), strings.TrimPrefix(l.word(2), "@"))
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("sent %d\nreplies %d\n", r.Sent, r.Replies), nil
}

// connect POD HOST PORT [n=COUNT] [hold=NAME] [udp] [unconnected] [http] [v4] [v6] [timeout=DURATION]:
// connects and exchanges a line; prints which servers answered, the peer the application saw, and the
// errors. It fails if one connection failed.
func connectVerb(l *Line) (string, error) {
	p, err := l.pod(0)
	if err != nil {
		return "", err
	}
	t, err := l.target(1)
	if err != nil {
		return "", err
	}
	v, err := p.Connect(t)
	if err != nil {
		return "", err
	}
	return v.String(), failures(v)
}

func failures(v app.Visits) error {
	if n := v.Failed(); n > 0 {
		return fmt.Errorf("%d connections failed:\n%s", n, v)
	}
	return nil
}

func (l *Line) target(from int) (app.Target, error) {
	t := app.Target{
		Network: "tcp", Hold: l.options["hold"], Unconnected: l.has("unconnected"), HTTP: l.has("http"),
	}
	if l.has("udp") || t.Unconnected {
		t.Network = "udp"
	}
	for _, family := range []string{"4", "6"} {
		if l.has("v" + family) {
			t.Network += family
		}
	}
	var err error
	if t.Count, err = l.number("n", 1); err != nil {
		return t, err
	}
	if t.Timeout, err = l.duration("timeout"); err != nil {
		return t, err
	}
	t.Host = l.word(from)
	if _, err := fmt.Sscan(l.word(from+1), &t.Port); err != nil {
		return t, usage("connect POD HOST PORT [n=COUNT] [hold=NAME] [udp] [unconnected] [http] ...")
	}
	return t, nil
}

// talk POD NAME: exchanges a line on every connection held under the name.
func talkVerb(l *Line) (string, error) {
	p, err := l.pod(0)
	if err != nil {
		return "", err
	}
	v, err := p.Talk(l.word(1))
	if err != nil {
		return "", err
	}
	return v.String(), failures(v)
}

// release POD NAME: closes the connections held under the name.
func releaseVerb(l *Line) (string, error) {
	p, err := l.pod(0)
	if err != nil {
		return "", err
	}
	n, err := p.Release(l.word(1))
	return fmt.Sprintf("released %d\n", n), err
}

// load start NAME POD dig|connect ... [pause=DURATION]: does that over and over.
// load look NAME POD, load stop NAME POD: what it has seen; stop fails if more than failed=N failed.
func loadVerb(l *Line) (string, error) {
	name := l.word(1)
	p, err := l.pod(2)
	if err != nil {
		return "", err
	}
	switch l.word(0) {
	case "look":
		t, err := p.LoadLook(name)
		return t.String(), err
	case "stop":
		t, err := p.LoadStop(name)
		if err != nil {
			return "", err
		}
		allowed, err := l.number("failed", 0)
		if err == nil && t.Failed > allowed {
			err = fmt.Errorf("%d failed, allowed are %d:\n%s", t.Failed, allowed, t)
		}
		return t.String(), err
	case "start":
		load := app.Load{Name: name}
		if load.Pause, err = l.duration("pause"); err != nil {
			return "", err
		}
		switch l.word(3) {
		case "dig":
			q, err := l.question(4)
			if err != nil {
				return "", err
			}
			load.Question = &q
		case "connect":
			t, err := l.target(4)
			if err != nil {
				return "", err
			}
			load.Target = &t
		}
		return "", p.LoadStart(load)
	}
	return "", usage("load start|look|stop NAME POD ...")
}
