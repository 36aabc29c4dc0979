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

// Attach has what leaves by lo and by the pod's interface of the network namespace the calling thread is in
// looked at, by the programs of s from now on, as in all pods, until Detach or the namespace's end. A light
// pod has no listeners, and only needs that of its interface.
func (s *Answers) Attach(cookie uint64, ifindex uint32, light bool) error {
	if err := os.MkdirAll(s.pin, 0o700); err != nil {
		return fmt.Errorf("make the pin directory: %w", err)
	}
	if err := s.d.maps.Outcomes.Update(cookie, nodensOutcomes{}, ebpf.UpdateNoExist); err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
		return fmt.Errorf("count for pod %d: %w", cookie, err)
	}
	if err := s.start(); err != nil {
		return err
	}
	outside := s.attach(cookie, ifindex, nodensAnswererANSWERER_OUTSIDE)
	if light {
		return errors.Join(outside, detach(s.pinOf(cookie, "lo")))
	}
	return errors.Join(outside, s.attach(cookie, loopback, nodensAnswererANSWERER_INSIDE))
}

// start makes s's programs those that all pods' packets go to.
func (s *Answers) start() error {
	s.starting.Lock()
	defer s.starting.Unlock()
	if s.started {
		return nil
	}
	for i, prog := range []*ebpf.Program{nodensAnswererANSWERER_INSIDE: s.inside, nodensAnswererANSWERER_OUTSIDE: s.outside} {
		if err := s.d.maps.Answerers.Put(uint32(i), prog); err != nil {
			return fmt.Errorf("put the programs that answer DNS to work: %w", err)
		}
	}
	s.started = true
	return nil
}

func (s *Answers) attach(cookie uint64, ifindex uint32, by nodensAnswerer) error {
	prog, err := s.d.pointer(cookie, by)
	if err != nil {
		return err
	}
	defer func() { _ = prog.Close() }()
	name := map[nodensAnswerer]string{nodensAnswererANSWERER_INSIDE: "lo", nodensAnswererANSWERER_OUTSIDE: "pod"}[by]
	if err := s.d.putOn(ifindex, prog, s.pinOf(cookie, name)); err != nil {
		return fmt.Errorf("answer DNS on interface %d: %w", ifindex, err)
	}
	return nil
}

// Verdicts of the programs, as in answer.h: TCX_NEXT, TCX_PASS, and what bpf_redirect() returns.
const goOn, deliver, redirect = -1, 0, 7

// skBuff is as much of struct __sk_buff, linux/bpf.h, as a test run takes.
type skBuff struct {
	_  [cbOffset]byte
	CB [5]uint32
	_  [192 - cbOffset - 20]byte
}

// Try has the programs look at a packet, from its Ethernet header on, as if a pod had sent it from the
// network namespace the calling thread is in, and returns what it is turned into; nil where it is left to
// others. It is counted like any other. The reply lies in buf if that is long enough, and 2 KiB are.
func (s *Answers) Try(cookie uint64, packet, buf []byte) ([]byte, error) {
	for _, prog := range []*ebpf.Program{s.inside, s.outside} {
		run := ebpf.RunOptions{
			Data: packet, DataOut: buf[:cap(buf)], Context: skBuff{CB: [5]uint32{uint32(cookie), uint32(cookie >> 32)}},
		}
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

// Check says whether what Attach has put somewhere is still there and leads to the programs of this datapath.
func (s *Answers) Check(cookie uint64, ifindex uint32, light bool) error {
	where := map[string]uint32{"pod": ifindex, "lo": loopback}
	if light {
		delete(where, "lo")
	}
	for name, index := range where {
		if err := s.d.isOn(index, s.pinOf(cookie, name)); err != nil {
			return err
		}
	}
	return nil
}

// Detach has a pod's packets left alone again, and returns what was counted: once, however often it is
// called. Absent is fine. A filter, where there is no tcx, stays: without a row to count in, nothing is done.
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
