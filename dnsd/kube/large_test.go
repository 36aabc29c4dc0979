package kube

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// heap is what is in use once everything that is not has been collected.
func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// Twenty thousand endpoints that are listed again, because the server has forgotten what happened since, are
// neither kept twice nor told of again and again.
func TestLargeRelist(t *testing.T) {
	const services, each = 400, 50
	a := serveAPI(t)
	for i := range services {
		name := fmt.Sprintf("s%d", i)
		a.put(service(name))
		var list []string
		for j := range each {
			list = append(list, fmt.Sprintf(`{"addresses": ["10.%d.%d.%d"], "conditions": {"ready": true}, "nodeName": "n%d", "zone": "z", "targetRef": {"kind": "Pod", "name": "%s-%d"}}`,
				i>>8, i&255, j+1, j, name, j))
		}
		a.put(strings.Replace(slice(name, name, "10.0.0.0"), `"endpoints": [`, `"endpoints": [`+strings.Join(list, ", ")+", ", 1))
	}
	empty := heap()
	w := a.run(t)
	w.until("the first list", func(in mesh.Input) bool { return len(in.Clusters) == services })
	before := heap()
	t.Logf("%d endpoints take %d KiB", services*each, (before-empty)>>10)
	kept := &w.last.Clusters[0].Localities[0]

	a.Down(true)
	w.until("out of reach", func(in mesh.Input) bool { return len(in.Zones) == 0 })
	a.Forget()
	a.Down(false)
	said := 0
	w.until("listed again", func(in mesh.Input) bool { said++; return len(in.Zones) == 1 })
	if said > 10 {
		t.Errorf("%d inputs for one change of state", said)
	}
	if len(w.last.Clusters) != services || &w.last.Clusters[0].Localities[0] != kept {
		t.Error("what has not changed was taken anew")
	}
	if n := a.Lists("endpointslices"); n > 5 {
		t.Errorf("listed %d times", n)
	}
	// The list itself may still be looked through.
	after, deadline := heap(), time.Now().Add(30*time.Second)
	for after > before+before/4 && time.Now().Before(deadline) {
		time.Sleep(50 * time.Millisecond)
		after = heap()
	}
	if after > before+before/4 {
		t.Errorf("the heap has grown from %d to %d KiB", before>>10, after>>10)
	}
}
