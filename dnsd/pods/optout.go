package pods

import (
	"fmt"
	"strconv"

	"sigs.k8s.io/yaml"
)

const (
	// captureAnnotation on a pod, "off", "on" or "light", says whether its DNS queries are captured, whatever
	// Istio's annotations say; light is without a socket of ours in the pod.
	captureAnnotation = "nodens.io/capture"
	captureLight      = "light"
	// ambientAnnotation is Istio's for pods without a sidecar: "true" or "false".
	ambientAnnotation = "ambient.istio.io/dns-capture"
	// proxyAnnotation is Istio's for pods with one: a ProxyConfig in YAML, whose proxyMetadata may have
	// captureMetadata. Its ISTIO_META_DNS_AUTO_ALLOCATE is of no account: virtual addresses are the node's.
	proxyAnnotation = "proxy.istio.io/config"
	captureMetadata = "ISTIO_META_DNS_CAPTURE"
)

// optedOut says which annotation leaves the pod's queries alone, if one does, and what of them makes no
// sense. Who is silent is captured, and so is who cannot be understood.
func optedOut(annotations map[string]string) (by, problem string) {
	if own, ok := annotations[captureAnnotation]; ok {
		switch own {
		case "off":
			return captureAnnotation, ""
		case "on", captureLight:
			return "", ""
		}
		problem = fmt.Sprintf("annotation %s is %q, not on, off or light", captureAnnotation, own)
	}
	if text, ok := annotations[ambientAnnotation]; ok {
		capture, err := strconv.ParseBool(text)
		switch {
		case err != nil:
			problem = fmt.Sprintf("annotation %s is %q, not true or false", ambientAnnotation, text)
		case !capture:
			return ambientAnnotation, problem
		default:
			return "", problem
		}
	}
	text, ok := annotations[proxyAnnotation]
	if !ok {
		return "", problem // the usual case, asked for every pod in every sweep
	}
	var proxy struct {
		ProxyMetadata map[string]string `json:"proxyMetadata"`
	}
	if err := yaml.Unmarshal([]byte(text), &proxy); err != nil {
		return "", fmt.Sprintf("annotation %s is no ProxyConfig: %v", proxyAnnotation, err)
	}
	if text, ok := proxy.ProxyMetadata[captureMetadata]; ok {
		capture, err := strconv.ParseBool(text)
		switch {
		case err != nil:
			problem = fmt.Sprintf("%s in annotation %s is %q, not true or false", captureMetadata, proxyAnnotation, text)
		case !capture:
			return captureMetadata + " in " + proxyAnnotation, problem
		}
	}
	return "", problem
}
