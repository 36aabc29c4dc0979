package ebpf

import (
	"os"
	"path/filepath"
	"testing"
)

// What leads to the answers of a dnsd with other maps is not what the next one has put there.
func TestKernelAnswersOfOtherMaps(t *testing.T) {
	for name, noTCX := range map[string]bool{"links": false, "filters": true} {
		t.Run(name, func(t *testing.T) {
			o := options(t)
			o.noTCX = noTCX
			a := newAskedIn(t, newWorldWith(t, o))
			must(t, os.Rename(filepath.Join(o.PinPath, schemaPin), filepath.Join(o.PinPath, mapsDir, "schema-0")))
			d, err := Stage(o)
			must(t, err)
			defer func() { must(t, d.Close()) }()
			next, err := d.Answers(soaRecord())
			must(t, err)
			defer func() { must(t, next.Close()) }()
			eth0 := a.ifindex(t, "eth0")
			for _, s := range []*Answers{a.Answers, next, a.Answers} {
				must(t, a.pod.Do(func() error { return s.Attach(a.cookie, eth0, false) }))
				for _, who := range []*Answers{a.Answers, next} {
					if err := who.Check(a.cookie, eth0, false); (err == nil) != (who == s) {
						t.Errorf("it is the next one's: %t; to the next one: %t, %v", s == next, who == next, err)
					}
				}
			}
		})
	}
}
