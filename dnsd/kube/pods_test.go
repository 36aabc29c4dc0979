package kube

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/nodens-dns/nodens/dnsd/objects"
)

// The first entry that selects pods holds up nothing while they are listed; and the end of a pod that nobody
// selects is no news.
func TestPodsLater(t *testing.T) {
	s := New(Options{})
	kinds := map[objects.Kind]*watched{}
	for _, w := range s.kinds {
		kinds[w.Kind] = w
		if w.Kind == objects.KindPod {
			continue
		}
		if err := w.Replace(nil, ""); err != nil {
			t.Fatal(err)
		}
	}
	// has has one of the kinds hear of an object, and says whether that was news.
	has := func(kind objects.Kind, hear func(*watched, any) error, text string) bool {
		t.Helper()
		w := kinds[kind]
		object := w.example.DeepCopyObject()
		if err := json.Unmarshal([]byte(text), object); err != nil {
			t.Fatal(err)
		}
		select {
		case <-s.ring:
		default:
		}
		if err := hear(w, object); err != nil {
			t.Fatal(err)
		}
		return len(s.ring) > 0
	}
	if in, ready := s.input(); !ready || in.Pending {
		t.Fatalf("all is listed: %t, %+v", ready, in)
	}
	has(objects.KindServiceEntry, (*watched).Add, `{"metadata": {"namespace": "shop", "name": "db"},
		"spec": {"hosts": ["db.test"], "resolution": "STATIC", "workloadSelector": {"labels": {"app": "vm"}}, "ports": [{"name": "tcp", "number": 3306}]}}`)
	if in, ready := s.input(); !ready || in.Pending || hosts(in) != "db.test" {
		t.Errorf("while pods are listed: %t, %+v", ready, in)
	}
	const pod = `{"metadata": {"namespace": "shop", "name": %q, "labels": {"app": %q}}, "status": {"podIP": "10.3.0.1", "conditions": [{"type": "Ready", "status": "True"}]}}`
	for app, news := range map[string]bool{"vm": true, "job": false} {
		text := fmt.Sprintf(pod, app, app)
		if came := has(objects.KindPod, (*watched).Add, text); came != news {
			t.Errorf("%s has come: news %t", app, came)
		}
		if went := has(objects.KindPod, (*watched).Delete, text); went != news {
			t.Errorf("%s has gone: news %t", app, went)
		}
	}
}
