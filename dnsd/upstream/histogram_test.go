package upstream

import (
	"testing"
	"time"
)

func TestHistogram(t *testing.T) {
	var h Histogram
	for _, d := range []time.Duration{0, 250 * time.Microsecond, 251 * time.Microsecond, time.Hour} {
		h.add(d)
	}
	if b := h.Buckets(); b[0.00025] != 2 || b[0.0005] != 3 || b[2.5] != 3 || h.Total() != 4 || h.Sum < time.Hour {
		t.Errorf("%+v", h)
	}
}
