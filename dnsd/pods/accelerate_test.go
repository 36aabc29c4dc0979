package pods

import (
	"errors"
	"testing"

	"github.com/nodens-dns/nodens/dnsd/serve"
	"github.com/nodens-dns/nodens/ebpf"
)

// moody is the kernel's answers, which cannot be attached at times.
type moody struct {
	*ebpf.Answers
	bad bool
}

func (m *moody) Attach(cookie uint64, ifindex uint32, light bool) error {
	if m.bad {
		return errInjected
	}
	return m.Answers.Attach(cookie, ifindex, light)
}

func (m *moody) Detach(cookie uint64) error {
	_, err := m.Answers.Detach(cookie)
	return err
}

// A pod that could not be answered in the kernel, or is not any more, is again after the next sweep.
func TestAccelerateAgain(t *testing.T) {
	n := newNode(t)
	record, pointers := serve.Authority()
	answers, err := n.kernel.Answers(ebpf.Authority{Record: record, Pointers: pointers})
	n.must(err)
	m := &moody{Answers: answers, bad: true}
	t.Cleanup(func() { n.must(errors.Join(n.kernel.StopAnswering(), answers.Close())) })
	n.options.Answers = m
	n.start()
	_, a := n.bare("web-0")
	n.must(n.add(a))
	answered := func(want bool) {
		t.Helper()
		p := n.find(a)
		if err := m.Check(p.Cookie, n.rows()[p.Cookie].Ifindex, false); (err == nil) != want || (p.Slow == "") != want || p.State != Captured {
			t.Errorf("answered in the kernel: %v; shown as %+v, want %t", err, p, want)
		}
	}
	answered(false)
	m.bad = false
	n.sweep()
	answered(true)
	n.must(n.kernel.StopAnswering()) // somebody takes it off
	n.sweep()
	answered(true)

	// What an earlier dnsd has put there is no reason not to try again.
	m.bad = true
	n.stop()
	n.start()
	if p := n.wait(a, Captured, ""); p.Slow == "" {
		t.Fatalf("could not be attached, and is shown as %+v", p)
	}
	m.bad = false
	n.sweep()
	answered(true)
}
