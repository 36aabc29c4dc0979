package answers

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/nodens-dns/nodens/ebpf"
)

// oldKernel cannot answer DNS.
type oldKernel struct{ asked, stopped int }

func (k *oldKernel) Answers(ebpf.Authority) (*ebpf.Answers, error) {
	k.asked++
	return nil, errors.New("unknown func bpf_get_netns_cookie")
}

func (k *oldKernel) StopAnswering() error {
	k.stopped++
	return nil
}

// A row that another dnsd has taken away and that was made anew counts from 0, and never below.
func TestRowsMadeAnew(t *testing.T) {
	c := counted{since: map[uint64]ebpf.Outcomes{7: {Declared: 5, Unknown: 1}}}
	for i, step := range []struct{ read, want ebpf.Outcomes }{
		{ebpf.Outcomes{Declared: 8, Unknown: 1}, ebpf.Outcomes{Declared: 3}},
		{ebpf.Outcomes{}, ebpf.Outcomes{}},
		{ebpf.Outcomes{Declared: 6, Unknown: 2}, ebpf.Outcomes{Declared: 6, Unknown: 2}},
	} {
		if got := c.own(7, step.read); got != step.want {
			t.Errorf("reading %d: %+v, want %+v", i, got, step.want)
		}
	}
}

// Where the kernel is not to answer, or cannot, everything else works as it does without, and what an
// earlier dnsd left there is taken away.
func TestKernelDoesNotAnswer(t *testing.T) {
	for _, wanted := range []bool{false, true} {
		var log strings.Builder
		k := &oldKernel{}
		a := New(wanted, k, slog.New(slog.NewTextHandler(&log, nil)))
		if k.stopped != 1 || (k.asked == 1) != wanted {
			t.Errorf("wanted %t: asked %d times, stopped %d times", wanted, k.asked, k.stopped)
		}
		if a.Learn() != nil || a.ForPods(nil) != nil {
			t.Errorf("wanted %t: somebody is told to answer in the kernel", wanted)
		}
		if err := a.Store(nil, false); err != nil { // has nowhere to write to
			t.Error(err)
		}
		if said := strings.Contains(log.String(), "netns_cookie"); said != wanted || (a.Off() != nil) != wanted {
			t.Errorf("wanted %t: off since %v, logged %s", wanted, a.Off(), log.String())
		}
	}
}
