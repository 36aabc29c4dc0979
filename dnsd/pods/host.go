package pods

import (
	"fmt"
	"reflect"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/nodens-dns/nodens/cni/attach"
)

// hostKey is what the node's own namespace goes by, beside the pods; `--pod host` means it.
var hostKey = attach.Key{ContainerID: "host", IfName: "host"}

// host is the attachment that stands for the node's own namespace, or an error. It has no file and no
// path: how the machine looks is asked anew at every sweep, and the namespace is dnsd's own.
func (p *Pods) host() (attach.Attachment, error) {
	a, err := p.o.Host()
	a.ContainerID, a.IfName, a.Network = hostKey.ContainerID, hostKey.IfName, hostKey.ContainerID
	a.Netns = ""
	return a, err
}

func isHost(a attach.Attachment) bool { return a.Key() == hostKey }

// sameHost reports whether nothing of the machine has changed that its processes are served by: interfaces
// come and go all the time where containers run, and who asks must not notice.
func (p *Pods) sameHost(was, is attach.Attachment) bool {
	return isHost(was) && isHost(is) && was.Interface == is.Interface && reflect.DeepEqual(p.wish(was), p.wish(is))
}

// withHost adds the host to the attachments that have files, as it is now, or as it was when that cannot
// be told.
func (p *Pods) withHost(list []attach.Attachment) []attach.Attachment {
	if p.o.Host == nil {
		return list
	}
	a, err := p.host()
	if err == nil {
		return append(list, a)
	}
	p.broken = append(p.broken, Problem{Object: hostKey.ContainerID, Reason: err.Error()})
	if q := p.pods[hostKey]; q != nil {
		list = append(list, q.attachment)
	}
	return list
}

// open opens the network namespace of a; see openPath.
func (p *Pods) open(a attach.Attachment) (netns.NsHandle, error) {
	if !isHost(a) {
		return openPath(a)
	}
	fd, err := unix.FcntlInt(uintptr(p.home), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return netns.None(), fmt.Errorf("open the node's own network namespace: %w", err)
	}
	return netns.NsHandle(fd), nil
}
