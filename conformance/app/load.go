package app

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Load is something done over and over until it is stopped: either Question or Target.
type Load struct {
	Name     string
	Question *Question
	Target   *Target
	// Pause is between one and the next.
	Pause time.Duration
}

// Tally is what a load has seen.
type Tally struct {
	Done, Failed int
	// Outcomes counts successes by what came back: a query's answers, a connection's server.
	Outcomes map[string]int
	// Errors counts failures by reason.
	Errors map[string]int
	// Changes is how often an outcome differed from the one before it.
	Changes int
	// Slowest is the longest a single attempt took, P50 and P99 are what half of them, and all but one in a
	// hundred, did not exceed.
	Slowest, P50, P99 time.Duration

	took []time.Duration
}

// String has a line "done N", "failed N", one for each outcome and error with its count, and "p50 D", "p99 D".
func (t Tally) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "done %d\nfailed %d\nchanges %d\n", t.Done, t.Failed, t.Changes)
	for _, k := range slices.Sorted(maps.Keys(t.Outcomes)) {
		fmt.Fprintf(&b, "outcome %s %d\n", k, t.Outcomes[k])
	}
	for _, k := range slices.Sorted(maps.Keys(t.Errors)) {
		fmt.Fprintf(&b, "error %s %d\n", k, t.Errors[k])
	}
	fmt.Fprintf(&b, "p50 %v\np99 %v\n", t.P50, t.P99)
	return b.String()
}

// summed is t by itself, with what follows from how long each attempt took.
func (t Tally) summed() Tally {
	t.Outcomes, t.Errors = maps.Clone(t.Outcomes), maps.Clone(t.Errors)
	if took := slices.Sorted(slices.Values(t.took)); len(took) > 0 {
		t.P50, t.P99 = took[len(took)/2], took[len(took)*99/100]
	}
	return t
}

// load is asked for its tally over look, and over stop for the last time.
type load struct {
	look, stop chan chan Tally
}

// LoadStart begins a load; it runs until LoadStop or the end of the process.
func (a *App) LoadStart(l Load, started *bool) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.loads[l.Name] != nil {
		return fmt.Errorf("load %q runs already", l.Name)
	}
	run := &load{look: make(chan chan Tally), stop: make(chan chan Tally)}
	a.loads[l.Name] = run
	go run.loop(l)
	*started = true
	return nil
}

// LoadLook says what a running load has seen so far.
func (a *App) LoadLook(name string, out *Tally) error {
	a.mu.Lock()
	run := a.loads[name]
	a.mu.Unlock()
	if run == nil {
		return fmt.Errorf("no load %q runs", name)
	}
	answer := make(chan Tally)
	run.look <- answer
	*out = <-answer
	return nil
}

// LoadStop ends a load after the attempt in flight and says what it saw.
func (a *App) LoadStop(name string, out *Tally) error {
	a.mu.Lock()
	run := a.loads[name]
	delete(a.loads, name)
	a.mu.Unlock()
	if run == nil {
		return fmt.Errorf("no load %q runs", name)
	}
	answer := make(chan Tally)
	run.stop <- answer
	*out = <-answer
	return nil
}

// loop owns the tally and hands out copies between attempts.
func (run *load) loop(l Load) {
	tally := Tally{Outcomes: map[string]int{}, Errors: map[string]int{}}
	last := ""
	var open kept
	defer open.close()
	for {
		select {
		case answer := <-run.stop:
			answer <- tally.summed()
			return
		case answer := <-run.look:
			answer <- tally.summed()
			continue
		case <-time.After(l.Pause):
		}
		start := time.Now()
		outcome, err := l.once(&open)
		took := time.Since(start)
		tally.Slowest = max(tally.Slowest, took)
		tally.took = append(tally.took, took)
		tally.Done++
		if err != nil {
			tally.Failed++
			tally.Errors[reason(err)]++
			continue
		}
		tally.Outcomes[outcome]++
		if last != "" && outcome != last {
			tally.Changes++
		}
		last = outcome
	}
}

func (l Load) once(open *kept) (outcome string, err error) {
	if l.Question != nil {
		by := exchange
		if l.Question.Kept {
			by = open.exchange
		}
		r, err := digBy(by, *l.Question)
		if err != nil {
			return "", err
		}
		if r.Rcode != "NOERROR" {
			return "", fmt.Errorf("rcode %s", r.Rcode)
		}
		return strings.Join(strings.Fields(r.Short()), ","), nil
	}
	server, _, conn, err := visit(*l.Target)
	if err != nil {
		return "", err
	}
	_ = conn.Close()
	return server, nil
}
