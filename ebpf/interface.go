package ebpf

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// cb's place in struct __sk_buff, linux/bpf.h: five words for programs to leave notes in.
const cbOffset = 48

// pointer is the program at an interface of a pod's: it says whose packets leave there, and goes on with
// what answers DNS, if there is something.
func (d *Datapath) pointer(cookie uint64, to nodensAnswerer) (*ebpf.Program, error) {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name:       "nodens_pod",
		Type:       ebpf.SchedCLS,
		AttachType: ebpf.AttachTCXEgress, // as that of where it goes on, or it may not
		Instructions: asm.Instructions{
			asm.Mov.Imm32(asm.R2, int32(cookie)), // before Linux 6.4 only what is in a register may be left there
			asm.StoreMem(asm.R1, cbOffset, asm.R2, asm.Word),
			asm.Mov.Imm32(asm.R2, int32(cookie>>32)),
			asm.StoreMem(asm.R1, cbOffset+4, asm.R2, asm.Word),
			asm.LoadMapPtr(asm.R2, d.maps.Answerers.FD()),
			asm.Mov.Imm(asm.R3, int32(to)),
			asm.FnTailCall.Call(),
			asm.Mov.Imm(asm.R0, goOn),
			asm.Return(),
		},
		License: "GPL",
	})
	if err != nil {
		return nil, fmt.Errorf("load the program of pod %d's own: %w", cookie, err)
	}
	return prog, nil
}

// putOn has a program see what leaves by an interface of the namespace the calling thread is in, in the
// place of what the pin stands for. The pin holds it there; a filter, where the kernel has no tcx, stays as
// long as the interface, whatever becomes of the pin.
func (d *Datapath) putOn(ifindex uint32, prog *ebpf.Program, pin string) error {
	if l, err := link.LoadPinnedLink(pin, nil); err == nil {
		info, err := l.Info()
		if err == nil && info.TCX() != nil && info.TCX().Ifindex == ifindex {
			return errors.Join(l.Update(prog), l.Close())
		}
		_ = l.Close()
	}
	_ = os.Remove(pin) // of an interface that is gone
	var l link.Link
	err := ebpf.ErrNotSupported
	if !d.noTCX {
		l, err = link.AttachTCX(link.TCXOptions{Interface: int(ifindex), Program: prog, Attach: ebpf.AttachTCXEgress})
	}
	if errors.Is(err, ebpf.ErrNotSupported) {
		if err := filter(ifindex, prog); err != nil {
			return err
		}
		return prog.Pin(pin)
	}
	if err != nil {
		return err
	}
	return errors.Join(l.Pin(pin), l.Close())
}

// filter has a program see what leaves by an interface, as Linux before 6.6 lets it: by a filter of the
// clsact queue, of which there may be others.
func filter(ifindex uint32, prog *ebpf.Program) error {
	clsact := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: int(ifindex), Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	if err := netlink.QdiscAdd(clsact); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("make a queue for filters (clsact): %w", err)
	}
	err := netlink.FilterReplace(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: int(ifindex), Parent: netlink.HANDLE_MIN_EGRESS, Handle: netlink.MakeHandle(0, 53),
			Protocol: unix.ETH_P_ALL, Priority: 53,
		},
		Fd: prog.FD(), Name: "nodens", DirectAction: true,
	})
	if err != nil {
		return fmt.Errorf("put a filter on: %w", err)
	}
	return nil
}

// isOn says whether what putOn has put somewhere is still there, and leads to d's programs. A filter is believed
// to be there: one can be seen from its own namespace only.
func (d *Datapath) isOn(ifindex uint32, pin string) error {
	if prog, err := ebpf.LoadPinnedProgram(pin, nil); err == nil {
		return d.leadsHere(prog, ifindex)
	}
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		return fmt.Errorf("no program that answers DNS is on interface %d: %w", ifindex, err)
	}
	info, err := l.Info()
	_ = l.Close()
	if err != nil || info.TCX() == nil || info.TCX().Ifindex != ifindex {
		return errors.Join(fmt.Errorf("somebody has taken the program that answers DNS off interface %d", ifindex), err)
	}
	prog, err := ebpf.NewProgramFromID(info.Program)
	if err != nil {
		return fmt.Errorf("ask which program answers DNS on interface %d: %w", ifindex, err)
	}
	return d.leadsHere(prog, ifindex)
}

// leadsHere says whether a pointer, which it closes, is to d's programs.
func (d *Datapath) leadsHere(prog *ebpf.Program, ifindex uint32) error {
	info, err1 := prog.Info()
	answerers, err2 := d.maps.Answerers.Info()
	if err := errors.Join(err1, err2, prog.Close()); err != nil {
		return fmt.Errorf("ask what the program on interface %d leads to: %w", ifindex, err)
	}
	id, _ := answerers.ID()
	if ids, ok := info.MapIDs(); ok && !slices.Contains(ids, id) {
		return fmt.Errorf("the program on interface %d leads to another dnsd's answers", ifindex)
	}
	return nil
}
