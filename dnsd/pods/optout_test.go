package pods

import (
	"strings"
	"testing"
)

func TestOptedOut(t *testing.T) {
	const proxyOff = "proxyMetadata:\n  ISTIO_META_DNS_CAPTURE: \"false\"\n  ISTIO_META_DNS_AUTO_ALLOCATE: \"true\"\n"
	const proxyOn = `{"proxyMetadata": {"ISTIO_META_DNS_CAPTURE": "true", "ISTIO_META_DNS_AUTO_ALLOCATE": "false"}, "concurrency": 2}`
	for name, c := range map[string]struct {
		annotations map[string]string
		by, problem string // parts of them
	}{
		"silent":                  {nil, "", ""},
		"ours off":                {map[string]string{captureAnnotation: "off"}, captureAnnotation, ""},
		"ours on":                 {map[string]string{captureAnnotation: "on"}, "", ""},
		"ours on, Istio's off":    {map[string]string{captureAnnotation: "on", proxyAnnotation: proxyOff, ambientAnnotation: "false"}, "", ""},
		"ours off, Istio's on":    {map[string]string{captureAnnotation: "off", proxyAnnotation: proxyOn, ambientAnnotation: "true"}, captureAnnotation, ""},
		"ours nonsense":           {map[string]string{captureAnnotation: "false"}, "", `"false", not on, off or light`},
		"ambient off":             {map[string]string{ambientAnnotation: "false"}, ambientAnnotation, ""},
		"ambient on, sidecar off": {map[string]string{ambientAnnotation: "true", proxyAnnotation: proxyOff}, "", ""},
		"ambient nonsense":        {map[string]string{ambientAnnotation: "no way"}, "", "not true or false"},
		"sidecar off":             {map[string]string{proxyAnnotation: proxyOff}, captureMetadata, ""},
		"sidecar on":              {map[string]string{proxyAnnotation: proxyOn}, "", ""},
		"sidecar of other things": {map[string]string{proxyAnnotation: "concurrency: 1"}, "", ""},
		"sidecar nonsense":        {map[string]string{proxyAnnotation: "proxyMetadata: [x]"}, "", "no ProxyConfig"},
		"sidecar half nonsense":   {map[string]string{proxyAnnotation: "proxyMetadata: {ISTIO_META_DNS_CAPTURE: maybe}"}, "", `"maybe", not true or false`},
	} {
		by, problem := optedOut(c.annotations)
		if !strings.HasPrefix(by, c.by) || (by == "") != (c.by == "") || !strings.Contains(problem, c.problem) || (problem == "") != (c.problem == "") {
			t.Errorf("%s: by %q, problem %q; want %q, %q", name, by, problem, c.by, c.problem)
		}
	}
}
