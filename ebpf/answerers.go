package ebpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// Outcomes counts a pod's queries by what became of them in the kernel. Declared and Learned were answered,
// Denied too: there is no such name. The others were left to dnsd: Unknown to the kernel, Unusual as
// questions, or asked while all were to Leave.
type Outcomes struct{ Declared, Learned, Denied, Unknown, Unusual, Watched uint64 }

// Outcomes reads a pod's counters; zero for one whose queries are not answered in the kernel.
func (s *Answers) Outcomes(cookie uint64) (Outcomes, error) {
	var row nodensOutcomes
	err := s.d.maps.Outcomes.Lookup(cookie, &row)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return Outcomes{}, fmt.Errorf("read how pod %d was answered: %w", cookie, err)
	}
	return Outcomes{row.Declared, row.Learned, row.Denied, row.Unknown, row.Unusual, row.Watched}, nil
}

const loopback = 1 // lo's index, in every namespace

// Attach puts the programs on lo and on the pod's interface of the network namespace the calling thread
// is in, or exchanges those that are there; they stay until Detach or the namespace's end. A light pod has
// no listeners, and only needs the one on its interface.
func (s *Answers) Attach(cookie uint64, ifindex uint32, light bool) error {
	if err := os.MkdirAll(s.pin, 0o700); err != nil {
		return fmt.Errorf("make the pin directory: %w", err)
	}
	if err := s.d.maps.Outcomes.Update(cookie, nodensOutcomes{}, ebpf.UpdateNoExist); err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
		return fmt.Errorf("count for pod %d: %w", cookie, err)
	}
	outside := s.attach(s.outside, ifindex, s.pinOf(cookie, "pod"))
	if light {
		return errors.Join(outside, detach(s.pinOf(cookie, "lo")))
	}
	return errors.Join(outside, s.attach(s.inside, loopback, s.pinOf(cookie, "lo")))
}

// Verdicts of the programs, as in answer.h: TCX_NEXT, TCX_PASS, and what bpf_redirect() returns.
const goOn, deliver, redirect = -1, 0, 7

// Try has the programs look at a packet, from its Ethernet header on, as if the network namespace the
// calling thread is in had sent it, and returns what it is turned into; nil where it is left to others. It
// is counted like any other. The reply lies in buf if that is long enough, and 2 KiB are.
func (s *Answers) Try(packet, buf []byte) ([]byte, error) {
	for _, prog := range []*ebpf.Program{s.inside, s.outside} {
		run := ebpf.RunOptions{Data: packet, DataOut: buf[:cap(buf)]}
		verdict, err := prog.Run(&run)
		if err != nil {
			return nil, fmt.Errorf("try a packet: %w", err)
		}
		switch int32(verdict) {
		case goOn:
		case deliver, redirect:
			return run.DataOut, nil
		default:
			return nil, fmt.Errorf("try a packet: it would be thrown away (verdict %d)", verdict)
		}
	}
	return nil, nil
}

func (s *Answers) pinOf(cookie uint64, name string) string {
	return filepath.Join(s.pin, strconv.FormatUint(cookie, 10)+"-"+name)
}

func (s *Answers) attach(prog *ebpf.Program, ifindex uint32, pin string) error {
	if l, err := link.LoadPinnedLink(pin, nil); err == nil {
		info, err := l.Info()
		if err == nil && info.TCX() != nil && info.TCX().Ifindex == ifindex {
			return errors.Join(l.Update(prog), l.Close())
		}
		_ = l.Close()
	}
	_ = os.Remove(pin) // of an interface that is gone
	l, err := link.AttachTCX(link.TCXOptions{Interface: int(ifindex), Program: prog, Attach: ebpf.AttachTCXEgress})
	if err != nil {
		return fmt.Errorf("answer DNS on interface %d: %w", ifindex, err)
	}
	return errors.Join(l.Pin(pin), l.Close())
}

// Check says whether what Attach has put somewhere is still there.
func (s *Answers) Check(cookie uint64, ifindex uint32, light bool) error {
	where := map[string]uint32{"pod": ifindex, "lo": loopback}
	if light {
		delete(where, "lo")
	}
	for name, index := range where {
		l, err := link.LoadPinnedLink(s.pinOf(cookie, name), nil)
		if err != nil {
			return fmt.Errorf("no program that answers DNS is on interface %d: %w", index, err)
		}
		info, err := l.Info()
		_ = l.Close()
		if err != nil || info.TCX() == nil || info.TCX().Ifindex != index {
			return errors.Join(fmt.Errorf("somebody has taken the program that answers DNS off interface %d", index), err)
		}
	}
	return nil
}

// Detach takes a pod's programs off, and returns what they have counted: once, however often it is called.
// Absent is fine.
func (s *Answers) Detach(cookie uint64) (Outcomes, error) {
	for _, name := range []string{"lo", "pod"} {
		if err := detach(s.pinOf(cookie, name)); err != nil {
			return Outcomes{}, fmt.Errorf("take the programs that answer DNS off pod %d: %w", cookie, err)
		}
	}
	n, err := s.Outcomes(cookie)
	if err == nil {
		err = s.d.forgetOutcomes(cookie)
	}
	if err != nil {
		return Outcomes{}, err
	}
	return n, nil
}

func (d *Datapath) forgetOutcomes(cookie uint64) error {
	if err := d.maps.Outcomes.Delete(cookie); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("forget how pod %d was answered: %w", cookie, err)
	}
	return nil
}

// Attached lists the pods that have pins, once for each.
func (s *Answers) Attached() ([]uint64, error) { return attached(s.pin) }

func attached(dir string) ([]uint64, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list where DNS is answered: %w", err)
	}
	var cookies []uint64
	for _, e := range entries {
		text, _, _ := strings.Cut(e.Name(), "-")
		if cookie, err := strconv.ParseUint(text, 10, 64); err == nil {
			cookies = append(cookies, cookie)
		}
	}
	return slices.Compact(cookies), nil // in the order of their names
}
