package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	settling = 100 * time.Millisecond // others write several files in a row
	resync   = 30 * time.Second       // in case a change was not noticed
	backOff  = time.Second            // after putting back what somebody had just undone, doubling
	backMost = time.Minute
	fighting = 5 // times in a row
)

// installer keeps a node as an installation is to be: the plugin's file, then the network's list.
type installer struct {
	bin     binDir
	net     netd
	old     enroller
	program []byte // of the plugin
	claims  string // the folder in which installers say that they are at work
	log     *slog.Logger
}

// settle makes the node as it should be and says whether it had to write. It looks at what is there, not
// at what happened, so it can be called at any time. It asks the runtime, for a second at most.
func (in *installer) settle(ctx context.Context) (wrote bool, err error) {
	known := in.net.ask(ctx)
	if err := in.belongs(known); err != nil && !errors.Is(err, errWait) {
		return false, err
	}
	wrote, err = in.bin.put(in.program)
	if err != nil {
		return wrote, err // without the plugin's file a list that names it makes no pods
	}
	if wrote {
		in.log.Info("the plugin is in place", "file", in.bin.path())
	}
	done, err := in.net.chain(ctx, known)
	for _, note := range done.notes {
		in.log.Warn(note)
	}
	if done.path != "" {
		in.log.Info("nodens is chained", "file", done.path)
	}
	return wrote || done.path != "", err
}

// belongs says whether the folders are the runtime's. If the one of plugins were not, the list would name a
// plugin that is not found, and no pod would start. Where no runtime says so, the network's own plugins do, or
// that it has run ours: a runtime with several folders may have found each in another one.
func (in *installer) belongs(known *loaded) error {
	if known != nil {
		return known.agrees(in.net.dir, in.bin.dir)
	}
	net, err := in.net.network()
	if err != nil {
		return err
	}
	if err = in.bin.holds(net.types()); err != nil && in.bin.there() && in.old.ran() {
		return nil
	}
	return err
}

// enrol has the pods noted that the network the runtime loads had before nodens.
func (in *installer) enrol(ctx context.Context) error {
	net, err := in.net.network()
	if err != nil {
		return err
	}
	if net.list == nil {
		return nil // about to become one
	}
	return in.old.run(ctx, net.list.name, in.net.entry)
}

// once settles one time.
func (in *installer) once(ctx context.Context) error {
	c, err := alone(in.claims)
	if err != nil {
		return err
	}
	defer c.release()
	if _, err := in.settle(ctx); err != nil {
		return err
	}
	return in.enrol(ctx)
}

// run settles until ctx is done, and then leaves everything as it is: pods that exist need the plugin to
// be taken down. What somebody else undoes is put back, at longer and longer intervals; to a newer
// installer it is left.
func (in *installer) run(ctx context.Context) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch folders: %w", err)
	}
	defer func() { _ = w.Close() }()
	c, err := stake(in.claims)
	if err != nil {
		return err
	}
	defer c.release()
	sweep(in.bin.disk, in.bin.dir)
	sweep(in.net.disk, in.net.dir)
	older := in.enrolBeside(ctx)
	defer older.end()
	var said string
	var fight fight
	for {
		// Watching comes before looking, so that nothing changes in between unseen. A folder that is
		// not there yet is watched when the next look finds it.
		_ = w.Add(in.net.dir)
		_ = w.Add(in.bin.dir)
		_ = w.Add(in.claims)
		wrote, err := in.settleAs(ctx, c)
		if err == nil {
			older.again()
		}
		said = in.report(err, said)
		if fight.round(wrote) == fighting {
			in.log.Warn("somebody keeps undoing the installation; backing off (with Cilium set cni.exclusive=false; see who writes the folder)",
				"folder", in.net.dir)
		}
		if !wait(ctx, w, fight.pause()) {
			return nil
		}
	}
}

// beside is the enrolment of pods from before, which goes on beside the installer's own work: a pod takes
// seconds where dnsd hangs, and a list that has lost nodens is to be mended meanwhile.
type beside struct {
	ask  chan struct{}
	done chan struct{}
}

func (in *installer) enrolBeside(ctx context.Context) *beside {
	b := &beside{make(chan struct{}, 1), make(chan struct{})}
	go func() {
		defer close(b.done)
		for range b.ask {
			if ctx.Err() == nil {
				_ = in.enrol(ctx) // it has said so itself
			}
		}
	}()
	return b
}

// again has all pods looked at, once more if they are being looked at.
func (b *beside) again() {
	select {
	case b.ask <- struct{}{}:
	default:
	}
}

// end waits for what is being done; the installer's context must have ended.
func (b *beside) end() {
	close(b.ask)
	<-b.done
}

// errNewer means that this installer has nothing to say any more.
var errNewer = errors.New("a newer nodens-install is at work on this node; standing by")

// settleAs settles if no newer installer is there to do it.
func (in *installer) settleAs(ctx context.Context, c *claim) (wrote bool, err error) {
	newest, err := c.newest()
	if err == nil && !newest {
		err = errNewer
	}
	if err != nil {
		return false, err
	}
	return in.settle(ctx)
}

// report logs an error once, and that it is gone.
func (in *installer) report(err error, said string) string {
	now := ""
	if err != nil {
		now = err.Error()
	}
	switch {
	case now == said:
	case errors.Is(err, errWait), errors.Is(err, errNewer):
		in.log.Info(now)
	case err != nil:
		in.log.Error("cannot install; trying again", "error", err)
	default:
		in.log.Info("the installation is whole")
	}
	return now
}

// fight counts how often in a row something had to be put back.
type fight struct{ rounds int }

func (f *fight) round(wrote bool) int {
	if wrote {
		f.rounds++
	} else {
		f.rounds = 0
	}
	return f.rounds
}

// pause is how long to hold still before the next look.
func (f *fight) pause() time.Duration {
	if f.rounds < 2 {
		return settling
	}
	return min(backOff<<min(f.rounds-2, 10), backMost)
}

// wait holds still for pause after something has changed, or after resync. It is false when ctx is done.
func wait(ctx context.Context, w *fsnotify.Watcher, pause time.Duration) bool {
	again := time.NewTimer(resync)
	defer again.Stop()
	if pause > settling { // a fight: look whether it is over even if nothing changes
		again.Reset(pause)
	}
	select {
	case <-ctx.Done():
		return false
	case <-w.Events:
	case <-w.Errors: // too many to queue: look at all of it
	case <-again.C:
	}
	hold := time.NewTimer(pause)
	defer hold.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-w.Events:
		case <-w.Errors:
		case <-hold.C:
			return true
		}
	}
}
