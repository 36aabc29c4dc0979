// Command nodens is the CNI plugin: it sees to it that the datapath is attached, notes that a pod exists,
// rings dnsd and passes the result of the plugins before it on as it came.
//
// It stands in a chain after the plugin that makes the interface. It fails a pod only for a
// configuration that cannot be meant, a namespace that is not there, and a record it could not write,
// since a pod nobody has noted is a pod nobody ever looks after. It does not fail for a kernel that
// refuses the datapath nor for a dnsd that is down, slow or hung: that pod resolves as if there were no
// nodens, and dnsd takes it up later.
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sys/unix"

	"github.com/nodens-dns/nodens/cni/attach"
	"github.com/nodens-dns/nodens/ebpf"
)

// A pod waits no longer than 2 s for us, whatever hangs.
const (
	attachBudget = 1000 * time.Millisecond // of ADD's, for the datapath
	addBudget    = 1500 * time.Millisecond
	ringBudget   = 1000 * time.Millisecond // of the others, for dnsd
)

// Error codes beside those of the types package.
const (
	codeUnavailable uint = 50  // SPEC, STATUS: the plugin cannot serve ADD
	codeDrifted     uint = 100 // CHECK: not as ADD left it
	codeUnknown     uint = 101 // CHECK: never added, as far as is noted; nodens-install does ADD then
)

func main() {
	// There is one thing to do at a time. More processors are more threads to start and to wake: twice the
	// context switches, each of them a wait on a node that is busy starting pods.
	runtime.GOMAXPROCS(1)
	// 0.3.0 is the first specification with prevResult, without which there is nothing to do.
	skel.PluginMainFuncs(skel.CNIFuncs{Add: add, Del: del, Check: check, GC: gc, Status: status},
		version.VersionsStartingFrom("0.3.0"), "CNI plugin nodens")
}

func add(args *skel.CmdArgs) error {
	ctx, cancel := context.WithTimeout(context.Background(), addBudget)
	defer cancel()
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	result, err := c.result()
	if err != nil {
		return err
	}
	ns, err := openNetns(args.Netns)
	if err != nil {
		return types.NewError(types.ErrInvalidNetNS, err.Error(), "the runtime must make the namespace before ADD; recreate the pod")
	}
	defer ns.close()
	if !ns.isHost() { // the node's own queries are none of ours
		if err := enrol(ctx, c, args, ns); err != nil {
			return err
		}
	}
	if _, err := os.Stdout.Write(result); err != nil {
		return types.NewError(types.ErrIOFailure, "write the result: "+err.Error(), "")
	}
	return nil
}

// enrol notes the pod and tells dnsd. Its error is that the pod could not be noted; all else that goes
// wrong stands in the note, for dnsd to show, and on stderr, for the runtime's log.
func enrol(ctx context.Context, c *conf, args *skel.CmdArgs, ns *netns) error {
	a, problem := c.attachment(args)
	a.NetnsInode = ns.id.Ino
	var err error
	if a.NetnsCookie, err = ns.prepare(); err != nil {
		problem = errors.Join(problem, err)
	}
	if err := ensureDatapath(ctx, c.datapath()); err != nil {
		problem = errors.Join(problem, err)
	}
	if problem != nil {
		a.Problem = strings.ReplaceAll(problem.Error(), "\n", "; ")
		fmt.Fprintf(os.Stderr, "nodens: %s (pod %s/%s): %s\n", a.Key(), a.PodNamespace, a.PodName, a.Problem)
	}
	if err := attach.Write(c.attachments(), a); err != nil {
		return types.NewError(types.ErrIOFailure, err.Error(), "make "+c.attachments()+" a folder root can write, with space left; it may be moved with stateDir")
	}
	// dnsd's answer is worth waiting for, so that a pod's first query is captured, but not worth more:
	// the file is there for whenever dnsd comes.
	_ = attach.Ring(ctx, c.bell(), attach.OpAdd, a.Key())
	return nil
}

// ensureDatapath attaches the programs if they are not, and waits for that as long as a pod may wait.
// What is half done when the plugin exits is what the next ADD, or dnsd, repairs.
func ensureDatapath(ctx context.Context, o ebpf.Options) error {
	if ebpf.Attached(o) == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, attachBudget)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		d, err := ebpf.Ensure(o)
		if err == nil {
			err = d.Close()
		}
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("attach the datapath: %w", err)
		}
		return nil
	case <-ctx.Done():
		if ebpf.Attached(o) == nil { // by another ADD, behind which this one stood in line
			return nil
		}
		return fmt.Errorf("attach the datapath: not done within %v", attachBudget)
	}
}

// del forgets the pod. It needs neither the namespace nor the runtime's capabilities nor dnsd, and never
// fails: an error would keep the plugins before us from giving back interface and address, and what is
// left of ours goes with the next GC or dnsd's sweep.
func del(args *skel.CmdArgs) error {
	ctx, cancel := context.WithTimeout(context.Background(), ringBudget)
	defer cancel()
	c := parseForDel(args.StdinData)
	k := attach.Key{ContainerID: args.ContainerID, IfName: args.IfName}
	if err := attach.Remove(c.attachments(), k); err != nil {
		fmt.Fprintln(os.Stderr, "nodens:", err)
	}
	// dnsd closes its sockets in the pod's namespace, which keep it alive.
	_ = attach.Ring(ctx, c.bell(), attach.OpDel, k)
	return nil
}

func check(args *skel.CmdArgs) error {
	ctx, cancel := context.WithTimeout(context.Background(), ringBudget)
	defer cancel()
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	if _, err := c.result(); err != nil {
		return err
	}
	ns, err := openNetns(args.Netns)
	if err != nil {
		return types.NewError(types.ErrInvalidNetNS, err.Error(), "the pod is gone; delete it")
	}
	defer ns.close()
	if ns.isHost() {
		return nil
	}
	k := attach.Key{ContainerID: args.ContainerID, IfName: args.IfName}
	a, err := attach.Find(c.attachments(), k)
	if errors.Is(err, fs.ErrNotExist) {
		return types.NewError(codeUnknown, fmt.Sprintf("%s is not noted in %s", k, c.attachments()), "nodens-install enrols it, or recreate the pod")
	}
	if err != nil {
		return drifted(err, "the node's other pods are not concerned")
	}
	want, _ := c.attachment(args)
	switch {
	case a.Network != c.Name:
		return drifted(fmt.Errorf("%s is noted for network %s and not %s", k, a.Network, c.Name), "recreate the pod")
	case a.NetnsInode != ns.id.Ino:
		return drifted(fmt.Errorf("%s is noted for another network namespace than %s", k, args.Netns), "recreate the pod")
	case !slices.Equal(a.Addresses, want.Addresses):
		return drifted(fmt.Errorf("%s is noted with the addresses %v; prevResult has %v", k, a.Addresses, want.Addresses), "recreate the pod")
	}
	if err := ebpf.Attached(c.datapath()); err != nil {
		return drifted(err, "restart dnsd, or let any pod start on this node: either attaches the datapath anew")
	}
	// A dnsd that is down or hangs is not the pod's fault, and a new pod would be no better off.
	if err := attach.Ring(ctx, c.bell(), attach.OpCheck, k); errors.Is(err, attach.ErrRefused) {
		return drifted(err, "see dnsd pods on this node")
	}
	return nil
}

func drifted(err error, remedy string) error {
	return types.NewError(codeDrifted, err.Error(), remedy)
}

func gc(args *skel.CmdArgs) error {
	ctx, cancel := context.WithTimeout(context.Background(), ringBudget) // for all of them together
	defer cancel()
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	list, errs := attach.List(c.attachments())
	for _, a := range list {
		if c.keeps(a) {
			continue
		}
		if err := attach.Remove(c.attachments(), a.Key()); err != nil {
			errs = append(errs, err)
			continue
		}
		_ = attach.Ring(ctx, c.bell(), attach.OpDel, a.Key())
	}
	if err := errors.Join(errs...); err != nil {
		return types.NewError(types.ErrIOFailure, err.Error(), "everything else has been collected")
	}
	return nil
}

// status answers whether an ADD would succeed. Runtimes ask every few seconds and take the node out of
// service on an error, so only what ADD cannot do without counts: a configuration, and a place to note
// pods. dnsd is not among it.
func status(args *skel.CmdArgs) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	dir := c.attachments()
	err = os.MkdirAll(dir, 0o755)
	if err == nil {
		err = unix.Access(dir, unix.W_OK|unix.X_OK)
	}
	if err != nil {
		return types.NewError(codeUnavailable, fmt.Sprintf("cannot note pods in %s: %v", dir, err), "make it a folder root can write; it may be moved with stateDir")
	}
	return nil
}
