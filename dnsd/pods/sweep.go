package pods

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/nodens-dns/nodens/cni/attach"
	"github.com/nodens-dns/nodens/ebpf"
)

// sweep compares everything: attachment files, pods, and rows of the kernel.
func (p *Pods) sweep() {
	list, errs := p.files.List(p.o.Dir)
	p.broken = nil
	for _, err := range errs {
		p.broken = append(p.broken, Problem{Object: "attachment file", Reason: err.Error()})
	}
	rows, err := p.o.Kernel.Pods()
	if err != nil {
		p.broken = append(p.broken, Problem{Object: "kernel", Reason: fmt.Sprintf("read the kernel's pods: %v", err)})
	} else {
		p.rows = rows
	}
	list = p.withHost(p.bury(list))
	p.dismiss(list)
	for _, a := range list {
		p.adopt(a, nil)
	}
	for _, q := range p.pods {
		if !q.live() {
			continue
		}
		if gone(q.attachment) {
			p.fail(q, fmt.Errorf("%w: %s", errGone, q.attachment.Netns))
			p.deleteRowOf(q)
		} else if _, ok := p.rows[q.cookie]; !ok {
			p.fail(q, errors.New("its row has vanished from the kernel"))
			p.adopt(q.attachment, nil)
		} else if err := p.accelerateAgain(q); err != nil {
			p.fail(q, err)
		}
	}
	// A file that cannot be read may be the one a row belongs to, and that row still balances.
	if len(errs) == 0 {
		p.deleteStrays(list)
		p.deleteStrayAnswers()
	}
	p.swept = true
	p.publish()
}

// bury removes the files of pods whose namespace has been gone for a while, and returns the others. DEL
// comes before the namespace goes, so it has come, or has passed us by: podman's goes by the list of the
// time of the ADD, and a runtime that lost its state calls none. A GC would remove them too; containerd
// has none.
func (p *Pods) bury(list []attach.Attachment) []attach.Attachment {
	return slices.DeleteFunc(list, func(a attach.Attachment) bool {
		q := p.pods[a.Key()]
		if q == nil {
			return false
		}
		if q.state != Failed || !vanished(a) { // while it is being opened, its path may block
			q.vanished = 0
			return false
		}
		if q.vanished++; q.vanished < buryAfter {
			return false
		}
		if err := attach.Remove(p.o.Dir, a.Key()); err != nil {
			p.broken = append(p.broken, Problem{Object: q.name(), Reason: err.Error()})
			return false
		}
		p.log.Info("attachment file of a pod that is gone is removed", "pod", q.name(), "attachment", a.Key())
		p.release(a.Key(), nil)
		return true
	})
}

// buryAfter is in sweeps.
const buryAfter = 4

// vanished reports whether nothing is at a's path any more, where other namespaces could be: a dnsd that
// runs in a container without the folder knows of none.
func vanished(a attach.Attachment) bool {
	_, err := os.Lstat(a.Netns)
	_, folder := os.Lstat(filepath.Dir(a.Netns))
	return errors.Is(err, fs.ErrNotExist) && folder == nil
}

// dismiss looks after the pods whose file is gone. Being absent from the list is not enough: a file, or
// the folder, may be unreadable for a moment.
func (p *Pods) dismiss(list []attach.Attachment) {
	listed := map[attach.Key]bool{}
	for _, a := range list {
		listed[a.Key()] = true
	}
	for key, q := range p.pods {
		if listed[key] {
			q.missed = false
			continue
		}
		if _, err := attach.Find(p.o.Dir, key); errors.Is(err, fs.ErrNotExist) && !p.orphaned(q) {
			p.restore(q)
		}
	}
}

// orphaned releases a pod without file if its namespace is gone or was never entered, and reports whether
// it did. The file alone is no DEL: that rings, and if nobody hears it, the namespace goes soon after.
// Somebody may have emptied the folder under a pod that lives, and it must not lose its addresses for it.
func (p *Pods) orphaned(q *pod) bool {
	orphaned := q.cookie == 0 || gone(q.attachment)
	if orphaned {
		p.release(q.attachment.Key(), nil)
	}
	return orphaned
}

// restore writes back the file of a pod that lives, so that the next dnsd finds it, too: when it has been
// missing for two sweeps, which is longer than a DEL takes from removing the file to ringing.
func (p *Pods) restore(q *pod) {
	if !q.missed {
		q.missed = true
		return
	}
	if err := attach.Write(p.o.Dir, q.attachment); err != nil {
		p.broken = append(p.broken, Problem{Object: q.name(), Reason: fmt.Sprintf("its attachment file was removed without a DEL: %v", err)})
		return
	}
	p.log.Warn("attachment file was removed without a DEL; it is written back", "pod", q.name(), "attachment", q.attachment.Key())
}

// missing returns the rows there are although there is no folder that could speak of their pods: no DEL takes
// it away, so it is not the pods that have gone.
func (p *Pods) missing() map[uint64]ebpf.Pod {
	if _, err := os.Stat(p.o.Dir); errors.Is(err, fs.ErrNotExist) {
		return maps.Clone(p.rows)
	}
	return nil
}

// deleteStrays deletes the rows of namespaces that no attachment speaks of: their DEL came while no
// dnsd was there. Those that are lost stay.
func (p *Pods) deleteStrays(list []attach.Attachment) {
	known := map[uint64]bool{}
	for _, a := range list {
		known[a.NetnsCookie] = true
		// Its cookie is not known yet, and any row may be its own.
		if q := p.pods[a.Key()]; a.NetnsCookie == 0 && q != nil && q.cookie == 0 && q.opening {
			return
		}
	}
	for _, q := range p.pods {
		known[q.cookie] = true
	}
	lost := 0
	for cookie := range p.lost {
		if _, there := p.rows[cookie]; there && !known[cookie] {
			known[cookie] = true
			lost++
		}
	}
	if lost > 0 {
		p.broken = append(p.broken, Problem{Object: "attachment files", Reason: fmt.Sprintf(
			"%d pods were in the kernel, and the folder %s was not there when dnsd started; is runDir the plugin's stateDir? They are balanced on, and not answered; those that are gone the next start forgets",
			lost, p.o.Dir)})
	}
	for cookie := range p.rows {
		if known[cookie] {
			continue
		}
		if err := p.deleteRow(cookie); err != nil {
			p.broken = append(p.broken, Problem{Object: "kernel", Reason: err.Error()})
			continue
		}
		p.log.Info("row of a pod that is gone is deleted", "cookie", cookie)
	}
}

// deleteStrayAnswers takes away what answered in namespaces that have no row any more, which a dnsd that
// was killed has left.
func (p *Pods) deleteStrayAnswers() {
	if p.o.Answers == nil {
		return
	}
	attached, err := p.o.Answers.Attached()
	for _, cookie := range attached {
		if _, known := p.rows[cookie]; !known && err == nil {
			err = p.o.Answers.Detach(cookie)
		}
	}
	if err != nil {
		p.broken = append(p.broken, Problem{Object: "kernel", Reason: err.Error()})
	}
}

// watch follows the folder between sweeps, for plugins that did not ring. Without it everything works,
// a few seconds later.
func (p *Pods) watch(ctx context.Context) {
	err := os.MkdirAll(p.o.Dir, 0o755)
	var w *fsnotify.Watcher
	if err == nil {
		if w, err = fsnotify.NewWatcher(); err == nil {
			defer func() { _ = w.Close() }()
			err = w.Add(p.o.Dir)
		}
	}
	if err != nil {
		p.log.Warn("cannot watch the folder of attachments; sweeping it instead", "dir", p.o.Dir, "every", sweepEvery, "error", err)
		return
	}
	again := time.NewTicker(sweepEvery)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-again.C:
			_ = w.Add(p.o.Dir) // it may be another folder by now
		case e, ok := <-w.Events:
			if !ok {
				return
			}
			if !strings.HasPrefix(filepath.Base(e.Name), ".") {
				p.post(func() { p.follow(e.Name) })
			}
		case <-w.Errors: // events were lost; the sweep finds them
		}
	}
}

// follow does what one file now says.
func (p *Pods) follow(path string) {
	a, err := attach.Read(path)
	switch {
	case err == nil:
		p.adopt(a, nil)
	case errors.Is(err, fs.ErrNotExist):
		for key, q := range p.pods {
			if strings.TrimSuffix(filepath.Base(path), filepath.Ext(path)) == key.String() {
				p.orphaned(q)
				return
			}
		}
	}
}
