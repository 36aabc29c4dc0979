package kube

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// Twenty thousand endpoints that are listed again, because the server has forgotten what happened since, are
// neither taken anew nor told of again and again.
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
	w := a.run(t)
	w.until("the first list", func(in mesh.Input) bool { return len(in.Clusters) == services })
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
}
