package world

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/nodens-dns/nodens/ebpf"
)

// KernelPods lists what the kernel half knows of pods, a line each, whether or not dnsd runs. Nothing is
// attached by asking.
func (w *World) KernelPods() ([]string, error) {
	o := ebpf.Options{CgroupPath: w.Cgroup(), PinPath: w.Pins()}
	if err := ebpf.Attached(o); err != nil {
		return nil, err
	}
	d, err := ebpf.Ensure(o)
	if err != nil {
		return nil, err
	}
	defer func() { _ = d.Close() }()
	rows, err := d.Pods()
	if err != nil {
		return nil, err
	}
	var lines []string
	for cookie, row := range rows {
		line := fmt.Sprintf("cookie %d", cookie)
		for _, addr := range []fmt.Stringer{row.Addr4, row.Addr6} {
			line += " " + addr.String()
		}
		for i, ns := range row.Nameservers {
			alive := ""
			for _, proto := range []ebpf.Protocol{ebpf.UDP, ebpf.TCP} {
				ok, err := d.ListenerAlive(cookie, i, proto)
				if err != nil {
					return nil, err
				}
				if ok {
					alive += fmt.Sprintf("+%d", proto)
				}
			}
			line += fmt.Sprintf(" %s>%d%s", ns.Addr, ns.Port, alive)
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return lines, nil
}

// Links lists the node's ends of the pods' veth pairs.
func (w *World) Links() ([]string, error) {
	var names []string
	err := w.Node.Do(func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			if name := l.Attrs().Name; l.Type() == "veth" && name != Uplink && !strings.HasPrefix(name, canaryPrefix) {
				names = append(names, name)
			}
		}
		return err
	})
	return names, err
}

// Leftovers lists what deleted pods have left behind: kernel rows, veth ends, attachment files.
func (w *World) Leftovers() ([]string, error) {
	var left []string
	rows, err := w.KernelPods()
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		left = append(left, "kernel row "+row)
	}
	links, err := w.Links()
	if err != nil {
		return nil, err
	}
	for _, link := range links {
		left = append(left, "veth "+link)
	}
	files, err := os.ReadDir(w.AttachmentDir())
	for _, file := range files {
		left = append(left, "file "+file.Name())
	}
	return left, err
}

// OtherLayout makes the pinned maps pass for those of a release that had another layout.
func (w *World) OtherLayout() error {
	dir := filepath.Join(w.Pins(), "maps")
	found, err := filepath.Glob(filepath.Join(dir, "schema-*"))
	if err != nil || len(found) != 1 {
		return fmt.Errorf("%s holds the schemas %v: %w", dir, found, err)
	}
	return os.Rename(found[0], filepath.Join(dir, "schema-0"))
}
