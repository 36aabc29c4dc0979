package script

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/nodens-dns/nodens/conformance/app"
)

// etcd start|stop: a real etcd on the node, at $ETCD; what it has stored stays.
// etcd put KEY VALUE, etcd del KEY: one key; etcd forget: all of the past.
func etcdVerb(l *Line) (string, error) {
	switch l.word(0) {
	case "start":
		return "", l.w.StartEtcd()
	case "stop":
		return "", l.w.StopEtcd()
	case "put":
		if len(l.args) == 3 { // a value may look like an option
			return l.w.Etcd("put", map[string]any{"key": []byte(l.args[1]), "value": []byte(l.args[2])})
		}
	case "del":
		return l.w.Etcd("deleterange", map[string]any{"key": []byte(l.word(1))})
	case "forget":
		text, err := l.w.Etcd("put", map[string]any{"key": []byte("/conformance/now"), "value": []byte("now")})
		if err != nil {
			return "", err
		}
		var reply struct {
			Header struct {
				Revision json.Number `json:"revision"`
			} `json:"header"`
		}
		if err := json.Unmarshal([]byte(text), &reply); err != nil {
			return "", fmt.Errorf("%s: %w", text, err)
		}
		return l.w.Etcd("compaction", map[string]any{"revision": reply.Header.Revision, "physical": true})
	}
	return "", usage("etcd start|stop|put KEY VALUE|del KEY|forget")
}

// source NAME FILE LINE: from now on dnsd has one more source, with this code and this line to call it.
func sourceVerb(l *Line) (string, error) {
	if len(l.args) != 3 {
		return "", usage("source NAME FILE LINE")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	return "", l.w.AddSource(ctx, l.args[0], l.ts.ReadFile(l.args[1]), l.args[2])
}

// nginx start: a real nginx on the node, that includes $NGINXD.
func nginxVerb(l *Line) (string, error) {
	if l.word(0) != "start" {
		return "", usage("nginx start")
	}
	return "", l.w.StartNginx()
}

// web ADDRESS:PORT NAME: pages in the internet that say the name, and what was asked for.
func webVerb(l *Line) (string, error) { return "", l.w.Serve(l.word(0), l.word(1)) }

// run POD PROGRAM [ARG ...]: a program of this machine where the pod's application is.
func runVerb(l *Line) (string, error) {
	p, err := l.pod(0)
	if err != nil {
		return "", err
	}
	if len(l.args) < 2 {
		return "", usage("run POD PROGRAM [ARG ...]")
	}
	ran, err := p.Run(app.Command{Path: l.args[1], Args: l.args[2:]})
	out := strings.Join(append(ran.Lines, ""), "\n")
	if err == nil && !ran.OK {
		err = fmt.Errorf("%s failed: %s", l.args[1], out)
	}
	return out, err
}
