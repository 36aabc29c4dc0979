package sandbox

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// Every thread comes back, whichever of the process's threads it is: one that stayed would keep the
// namespace alive.
func TestThreadsComeBack(t *testing.T) {
	Root(t)
	home, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	ns := Netns(t)
	var all sync.WaitGroup
	together := make(chan struct{})
	for range 20 { // at once, so that idle threads, the first among them, have to help
		all.Go(func() {
			err := ns.Do(func() error {
				<-together
				if here, err := os.Readlink("/proc/thread-self/ns/net"); err != nil || here == home {
					t.Errorf("inside is %s, outside %s (%v)", here, home, err)
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	time.AfterFunc(10*time.Millisecond, func() { close(together) })
	all.Wait()
	threads, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil || len(threads) == 0 {
		t.Fatal("no threads to look at", err)
	}
	for _, thread := range threads {
		if at, err := os.Readlink(thread); err == nil && at != home {
			t.Errorf("%s is %s, not %s", thread, at, home)
		}
	}
}
