package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"
)

// finding is one thing an installation consists of, and what is wrong with it.
type finding struct {
	what, how string
	err       error
}

// status looks at everything a pod needs to be captured: the plugin's file, the network's list, the runtime
// that is to read it, dnsd.
func (in *installer) status(ctx context.Context, dnsd string) []finding {
	binary := finding{what: "plugin", how: in.bin.path(), err: in.bin.is(in.program)}
	where, err := in.net.chained()
	chain := finding{what: "chain", how: where, err: err}
	daemon := finding{what: "dnsd", how: dnsd, err: ready(ctx, dnsd)}
	return []finding{binary, chain, in.runtime(ctx, err == nil), daemon}
}

// runtime is what the runtime says of it: whether the folders are its own, and whether it has loaded what
// is there, if it is to. Without its word, the network's plugins must do.
func (in *installer) runtime(ctx context.Context, chained bool) finding {
	known := in.net.ask(ctx)
	f := finding{what: "runtime", how: "not asked: " + errNotAsked.Error(), err: in.belongs(known)}
	if known != nil {
		f.how = "containerd " + known.version + " at " + known.socket
	}
	if f.err != nil || !chained {
		return f
	}
	net, err := in.net.network()
	if err != nil {
		f.err = err
		return f
	}
	switch {
	case known != nil && known.has(net.list.name) == 0:
		f.err = fmt.Errorf("%s has not loaded nodens in network %s; its log says why", f.how, net.list.name)
	case known != nil:
	case len(net.passed) > 0:
		f.how += "; " + net.path + " comes after what is no configuration, at which containerd would stop: " + errors.Join(net.passed...).Error()
	case len(net.list.ours) == 0:
		f.err = fmt.Errorf("whether the runtime reads %s nobody says: %w", in.net.dropPath(net.list.name), errNotAsked)
	}
	return f
}

// ready asks dnsd whether it is, within a second.
func ready(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/readyz", nil)
	if err != nil {
		return fmt.Errorf("dnsd's address %q: %w", addr, err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("dnsd does not answer; pods start and resolve without it: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return fmt.Errorf("dnsd is not ready: %s", strings.TrimSpace(string(text)))
	}
	return nil
}

// show prints findings and returns an error if one of them is bad.
func show(out io.Writer, findings []finding) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	bad := 0
	for _, f := range findings {
		how := "ok  " + f.how
		if f.err != nil {
			how = "NOT OK  " + f.err.Error()
			bad++
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\n", f.what, how)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("print status: %w", err)
	}
	if bad > 0 {
		return fmt.Errorf("%d of %d are not as they should be", bad, len(findings))
	}
	return nil
}
