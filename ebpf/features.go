package ebpf

import (
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
)

// Feature is something the datapath does better on some kernels than on others.
type Feature struct {
	Name    string
	Present bool
	Detail  string // how it is, or what lacks and since which kernel it would not
}

// Features says what this kernel and this attachment give. It asks the kernel anew each time.
func (d *Datapath) Features() []Feature {
	all := []Feature{{Name: "seen", Present: true, Detail: d.seenBy}}
	errno := Feature{Name: "errno", Present: haveSetRetval(), Detail: "nothing behind an address: ECONNREFUSED"}
	if !errno.Present {
		errno.Detail = "nothing behind an address: EPERM instead of ECONNREFUSED; needs bpf_set_retval, Linux 5.18"
	}
	ends := Feature{Name: "ends", Present: haveSockDestroy(), Detail: "connections to a backend that has left are ended"}
	if !ends.Present {
		ends.Detail = "connections to a backend that has left are left alone; needs bpf_sock_destroy, Linux 6.5"
	}
	answers := Feature{Name: "answers", Present: true, Detail: "names can be answered in the kernel"}
	if !haveTCX() {
		answers.Detail += ", by filters of clsact; Linux 6.6 has tcx, which takes itself off"
	}
	return append(all, errno, ends, answers, d.orderFeature())
}

func haveTCX() bool {
	_, err := link.QueryPrograms(link.QueryOptions{Target: loopback, Attach: ebpf.AttachTCXEgress})
	return err == nil
}

// orderFeature finds the first attachment this kernel knows by attaching a program that does nothing,
// for a moment.
func (d *Datapath) orderFeature() Feature {
	f := Feature{Name: "order"}
	cgroup, err := os.Open(d.cgroup)
	if err != nil {
		f.Detail = err.Error()
		return f
	}
	defer func() { _ = cgroup.Close() }()
	nothing, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:         ebpf.CGroupSockAddr,
		AttachType:   ebpf.AttachCgroupInet4GetPeername,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
		License:      "GPL",
	})
	if err != nil {
		f.Detail = err.Error()
		return f
	}
	defer func() { _ = nothing.Close() }()
	l, i, err := attachFirst(cgroup, nothing, ebpf.AttachCgroupInet4GetPeername)
	if err != nil {
		f.Detail = err.Error()
		return f
	}
	_ = l.Close()
	f.Present = i == 0
	f.Detail = "attached " + attachments[i].name
	if !f.Present {
		f.Detail += fmt.Sprintf("; %s needs Linux %s", attachments[0].name, attachments[0].since)
	}
	return f
}
