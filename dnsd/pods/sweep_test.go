package pods

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodens-dns/nodens/cni/attach"
	"github.com/nodens-dns/nodens/ebpf"
)

// problem returns the first problem whose reason contains text.
func (n *node) problem(text string) error {
	for _, p := range n.pods.Problems() {
		if strings.Contains(p.Reason, text) {
			return nil
		}
	}
	return fmt.Errorf("no problem speaks of %q: %v", text, n.pods.Problems())
}

func TestFilesAreEnough(t *testing.T) {
	n := newNode(t)
	_, early := n.bare("early")
	n.write(early) // before dnsd
	n.start()
	n.wait(early, Captured, "")
	ns, late := n.bare("late")
	n.write(late) // and nobody rings
	n.wait(late, Captured, "")

	late.DNS.Nameservers = late.DNS.Nameservers[:1]
	late.Created = late.Created.Add(time.Second)
	n.write(late)
	n.eventually("the changed attachment is followed", func() error {
		if p := n.find(late); p.State != Captured || len(p.Nameservers) != 1 || len(n.rows()[late.NetnsCookie].Nameservers) != 1 {
			return fmt.Errorf("%+v", p)
		}
		return nil
	})
	n.must(ns.Close())
	n.must(attach.Remove(n.options.Dir, late.Key())) // a DEL that nobody hears
	n.eventually("the pod is released", func() error {
		if _, ok := n.rows()[late.NetnsCookie]; ok || n.find(late).State != "" {
			return fmt.Errorf("%+v", n.find(late))
		}
		return nil
	})
	n.wait(early, Captured, "")
}

// Whoever empties our folders takes nothing from the pods that live: their files come back, for the dnsd
// that comes after this one, and so does the bell.
func TestFoldersThatAreEmptied(t *testing.T) {
	n := newNode(t)
	n.options.Bell = filepath.Join(n.options.Dir, "..", "run", "bell.sock")
	n.start()
	_, a := n.bare("web-0")
	n.must(n.add(a))
	since := n.find(a).Since
	for range 2 { // the second time as good as the first
		n.must(os.RemoveAll(n.options.Dir))
		n.must(os.RemoveAll(filepath.Dir(n.options.Bell)))
		n.sweep()
		n.sweep()
		if got, err := attach.Find(n.options.Dir, a.Key()); err != nil || !reflect.DeepEqual(got, a) {
			t.Errorf("the file holds %+v (%v), want %+v", got, err, a)
		}
		n.eventually("the bell is back", func() error { return n.ring(attach.OpCheck, a.Key()) })
	}
	if p := n.find(a); p.State != Captured || p.Since != since {
		t.Errorf("the pod is %+v, want it captured all the time", p)
	}
	n.stop()
	n.start()
	n.wait(a, Captured, "")
	n.del(a)
	n.sweep()
	n.sweep()
	if files, err := os.ReadDir(n.options.Dir); len(files) != 0 || err != nil {
		t.Errorf("%v came back after a DEL (%v)", files, err)
	}
	if rows := n.rows(); len(rows) != 0 {
		t.Errorf("rows %v", rows)
	}
}

// A folder that is gone when dnsd starts, as one that a new configuration names wrongly, says nothing of the
// pods: what the kernel does for those that live goes on, and it is told what is wrong.
func TestFolderThatIsGoneAtTheStart(t *testing.T) {
	n := newNode(t)
	n.start()
	_, a := n.bare("web-0")
	_, b := n.bare("web-1")
	n.must(n.add(a))
	n.must(n.add(b))
	n.stop()
	n.must(os.RemoveAll(n.options.Dir))
	n.start()
	n.sweep()
	if rows := n.rows(); len(rows) != 2 {
		t.Errorf("rows %v", rows)
	}
	n.must(n.problem("2 pods were in the kernel"))
	n.must(n.add(a))
	n.sweep()
	n.must(n.problem("1 pods were in the kernel"))
	n.del(a)
	n.stop()
	n.start() // with a folder that knows nothing of the other one
	n.sweep()
	if rows := n.rows(); len(rows) != 0 {
		t.Errorf("rows %v", rows)
	}
}

func TestBrokenFileAmongGoodOnes(t *testing.T) {
	n := newNode(t)
	_, good := n.bare("good")
	_, torn := n.bare("torn")
	n.write(good)
	n.write(torn)
	n.start()
	n.wait(good, Captured, "")
	n.wait(torn, Captured, "")

	// The file breaks while its pod is served; then dnsd is started over it.
	file := filepath.Join(n.options.Dir, torn.Key().String()+".json")
	n.must(os.Truncate(file, 40))
	n.sweep()
	n.must(n.problem(file))
	n.wait(torn, Captured, "")
	n.stop()
	n.start()
	n.must(n.problem(file))
	n.wait(good, Captured, "")
	if _, ok := n.rows()[torn.NetnsCookie]; !ok {
		t.Error("a row was deleted that may be the unreadable file's: it balances connections still")
	}
	n.must(os.Remove(file))
	n.sweep()
	if _, ok := n.rows()[torn.NetnsCookie]; ok {
		t.Error("the row of a pod that is gone stays")
	}
	if p := n.pods.Problems(); len(p) != 0 {
		t.Errorf("problems %v", p)
	}
}

func TestNodesOwnNamespaceIsNeverEnrolled(t *testing.T) {
	n := newNode(t)
	n.start()
	a := attach.Attachment{
		Version: attach.Version, ContainerID: "host", IfName: "eth0", Interface: "lo",
		Netns:     "/proc/self/ns/net",
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.96.0.5/24")},
		DNS:       attach.DNS{Nameservers: []netip.Addr{netip.MustParseAddr(server4)}},
	}
	if err := n.add(a); err == nil || !strings.Contains(err.Error(), "node's own") {
		t.Errorf("added: %v", err)
	}
	n.wait(a, Failed, "node's own")
	if rows := n.rows(); len(rows) != 0 {
		t.Errorf("rows %v", rows)
	}
	if err := n.ring(attach.OpCheck, a.Key()); err == nil {
		t.Error("CHECK is content")
	}
}

// A path that never opens keeps its own pod waiting and nobody else's.
func TestPathThatHangs(t *testing.T) {
	n := newNode(t)
	n.start()
	fifo := filepath.Join(t.TempDir(), "netns")
	n.must(unix.Mkfifo(fifo, 0o600))
	stuck := attach.Attachment{Version: attach.Version, ContainerID: "stuck", IfName: "eth0", Netns: fifo}
	n.write(stuck)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := attach.Ring(ctx, n.options.Bell, attach.OpAdd, stuck.Key()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ring for the stuck pod: %v", err)
	}
	n.wait(stuck, Opening, fifo)
	_, a := n.bare("other")
	n.must(n.add(a))
	n.sweep()
	n.wait(a, Captured, "")
	n.del(a)

	n.del(stuck) // answered although the open is still under way
	// It opens at last, and nobody wants it any more.
	w, err := os.OpenFile(fifo, os.O_WRONLY, 0)
	n.must(err)
	n.must(w.Close())
	n.sweep()
	if p := n.find(stuck); p.State != "" {
		t.Errorf("it came back: %+v", p)
	}
}

// Who waits for a daemon to be ready must not find a pod that it has not come to yet.
func TestSettledMeansCaptured(t *testing.T) {
	n := newNode(t)
	var all []attach.Attachment
	for i := range 5 {
		_, a := n.bare("web-" + strconv.Itoa(i))
		n.write(a)
		all = append(all, a)
	}
	n.start()
	n.eventually("settled", func() error {
		if !n.pods.Settled() {
			return errors.New("not yet")
		}
		return nil
	})
	for _, a := range all {
		if p := n.find(a); p.State != Captured {
			t.Errorf("%s is %q: %s", a.ContainerID, p.State, p.Reason)
		}
	}
}

// A pod whose DEL never comes is not spoken of for ever; one whose namespace cannot be seen is.
func TestPodWithoutDEL(t *testing.T) {
	n := newNode(t)
	n.start()
	ns, a := n.bare("web-0")
	n.must(n.add(a))
	unseen := a
	unseen.ContainerID, unseen.Netns = "unseen", filepath.Join(t.TempDir(), "not-mounted", "cni-1")
	n.write(unseen)

	n.must(ns.Close())
	n.sweep()
	n.wait(a, Failed, errGone.Error())
	for range buryAfter {
		n.sweep()
	}
	if _, err := attach.Find(n.options.Dir, a.Key()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its file is there: %v", err)
	}
	if p := n.find(a); p.State != "" {
		t.Errorf("it is spoken of: %+v", p)
	}
	if _, err := attach.Find(n.options.Dir, unseen.Key()); err != nil {
		t.Error(err)
	}
}

func TestNamespaceThatIsGone(t *testing.T) {
	n := newNode(t)
	n.start()
	ns, a := n.bare("web-0")
	n.must(n.add(a))

	n.must(ns.Close())
	n.sweep()
	n.wait(a, Failed, errGone.Error())
	if rows := n.rows(); len(rows) != 0 {
		t.Errorf("rows %v", rows)
	}
	if err := n.add(a); err == nil || !strings.Contains(err.Error(), errGone.Error()) {
		t.Errorf("added again: %v", err)
	}
	n.del(a)

	// The same path, or even the same inode number, is not the same namespace.
	_, b := n.bare("web-1")
	b.NetnsInode++
	if err := n.add(b); err == nil || !strings.Contains(err.Error(), errGone.Error()) {
		t.Errorf("another inode: %v", err)
	}
	b.NetnsInode--
	b.NetnsCookie++
	if err := n.add(b); err == nil || !strings.Contains(err.Error(), errGone.Error()) {
		t.Errorf("another cookie: %v", err)
	}
	// Nor is a file that a namespace was mounted on once.
	left := filepath.Join(t.TempDir(), "left")
	n.must(os.WriteFile(left, nil, 0o600))
	b.Netns, b.NetnsInode = left, 0
	if err := n.add(b); err == nil || !strings.Contains(err.Error(), "no namespace any more") {
		t.Errorf("a plain file: %v", err)
	}
	if rows := n.rows(); len(rows) != 0 {
		t.Errorf("rows %v", rows)
	}
}

// An attachment that knows neither inode nor cookie is believed, as nothing speaks against it.
func TestAttachmentThatKnowsLittle(t *testing.T) {
	n := newNode(t)
	n.start()
	_, a := n.bare("web-0")
	cookie := a.NetnsCookie
	a.NetnsInode, a.NetnsCookie, a.PodNamespace, a.PodName = 0, 0, "", ""
	n.must(n.add(a))
	n.sweep()
	if p := n.wait(a, Captured, ""); p.Cookie != cookie {
		t.Errorf("cookie %d, want %d", p.Cookie, cookie)
	}
	n.del(a)
	if rows := n.rows(); len(rows) != 0 {
		t.Errorf("rows %v", rows)
	}
}

func TestRowsFollowTheFiles(t *testing.T) {
	n := newNode(t)
	stray := ebpf.Pod{Ifindex: 1, LB: true}
	n.must(n.kernel.PutPod(1<<60, stray))
	_, a := n.bare("web-0")
	n.write(a)
	n.start()
	n.wait(a, Captured, "")
	if _, ok := n.rows()[1<<60]; ok {
		t.Error("the row of nobody stays")
	}
	// Somebody cleared the map.
	n.must(n.kernel.DeletePod(a.NetnsCookie))
	if err := n.ring(attach.OpCheck, a.Key()); err == nil {
		t.Error("CHECK is content without a listener in the kernel")
	}
	n.sweep()
	n.eventually("the row is back", func() error {
		if _, ok := n.rows()[a.NetnsCookie]; !ok {
			return errors.New("it is not")
		}
		return n.ring(attach.OpCheck, a.Key())
	})
}

func TestTwoAttachmentsOfOneNamespace(t *testing.T) {
	n := newNode(t)
	kernel := &flaky{Datapath: n.kernel}
	n.options.Kernel = kernel
	n.start()
	ns, first := n.bare("web-0")
	n.must(n.add(first))
	second := n.attachment("web-0", ns)
	second.IfName, second.Interface = "net1", "lo"
	n.must(n.add(second))
	n.wait(second, Shared, "web-0:eth0")
	n.wait(first, Captured, "")
	n.must(n.ring(attach.OpCheck, second.Key()))

	n.del(second)
	if _, ok := n.rows()[first.NetnsCookie]; !ok {
		t.Fatal("the row went with the attachment it does not stand for")
	}
	n.must(n.add(second))
	n.del(first)
	n.sweep()
	n.wait(second, Captured, "")

	// One that failed does not take the row of the other with it.
	n.del(second)
	kernel.rows.Store(true)
	if err := n.add(first); !errors.Is(err, attach.ErrRefused) {
		t.Errorf("added: %v", err)
	}
	kernel.rows.Store(false)
	n.must(n.add(second))
	n.del(first)
	if _, ok := n.rows()[second.NetnsCookie]; !ok {
		t.Error("the row went with the attachment that failed")
	}
}

func TestLoThatIsDown(t *testing.T) {
	n := newNode(t)
	n.start()
	ns, a := n.bare("web-0")
	set := func(change func(netlink.Link) error) {
		n.must(ns.Do(func() error {
			lo, err := netlink.LinkByName("lo")
			if err != nil {
				return err
			}
			return change(lo)
		}))
	}
	set(netlink.LinkSetDown)
	if err := n.add(a); err == nil || !strings.Contains(err.Error(), "lo is down") {
		t.Errorf("added: %v", err)
	}
	if rows := n.rows(); len(rows) != 0 {
		t.Errorf("rows %v", rows)
	}
	set(netlink.LinkSetUp)
	n.sweep()
	n.wait(a, Captured, "")
}

func TestRunNeedsItsBell(t *testing.T) {
	n := newNode(t)
	file := filepath.Join(t.TempDir(), "file")
	n.must(os.WriteFile(file, nil, 0o600))
	n.options.Bell = file
	if err := New(n.options).Run(t.Context()); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("Run: %v", err)
	}
}

func TestManyPodsAtOnce(t *testing.T) {
	n := newNode(t)
	var all []attach.Attachment
	for i := range 40 {
		_, a := n.bare(fmt.Sprintf("web-%d", i))
		n.write(a)
		all = append(all, a)
	}
	n.start()
	errs := make(chan error)
	for _, a := range all {
		go func() { errs <- n.ring(attach.OpAdd, a.Key()) }()
	}
	for range all {
		n.must(<-errs)
	}
	if rows := n.rows(); len(rows) != len(all) {
		t.Errorf("%d rows for %d pods", len(rows), len(all))
	}
	if got := n.pods.Nameservers(); len(got) != 2 {
		t.Errorf("nameservers %v", got)
	}
	for _, a := range all {
		go func() {
			err := attach.Remove(n.options.Dir, a.Key())
			errs <- errors.Join(err, n.ring(attach.OpDel, a.Key()))
		}()
	}
	for range all {
		n.must(<-errs)
	}
	if rows := n.rows(); len(rows) != 0 || len(n.pods.List()) != 0 {
		t.Errorf("left: %d rows, %d pods", len(rows), len(n.pods.List()))
	}
}

// BenchmarkAdd is what a pod's start waits for: from the ring to the answer, two nameservers.
func BenchmarkAdd(b *testing.B) {
	n := newNode(b)
	n.options.Log = slog.New(slog.DiscardHandler)
	n.start()
	_, a := n.bare("web-0")
	for b.Loop() {
		b.StopTimer()
		n.write(a)
		b.StartTimer()
		n.must(n.ring(attach.OpAdd, a.Key()))
		b.StopTimer()
		n.del(a)
		b.StartTimer()
	}
}
