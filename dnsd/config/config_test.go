package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "dnsd.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestConfig(t *testing.T) {
	c, err := Read(writeFile(t, `
resolvers: [192.0.2.1, "192.0.2.2:5353", "2001:db8::1", "[2001:db8::2]:5353"]
xds: {address: "127.0.0.1:15010", namespace: shop}
`))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range c.ResolverAddresses {
		got = append(got, r.String())
	}
	if s := strings.Join(got, " "); s != "192.0.2.1:53 192.0.2.2:5353 [2001:db8::1]:53 [2001:db8::2]:5353" {
		t.Errorf("resolvers %s", s)
	}
	if s := c.VIPs.V4.String(); s != "240.241.0.0/16" {
		t.Errorf("beside a control plane that gives addresses out of 240.240.0.0/16 ours are from %s", s)
	}
	if c.RunDir != "/run/nodens" || c.ClusterDomain != "cluster.local" {
		t.Errorf("defaults are %+v", c)
	}
}

func TestListen(t *testing.T) {
	for _, listen := range []string{"''", "':9553'", "'[::1]:0'", "localhost:9553"} {
		if _, err := Read(writeFile(t, "listen: "+listen)); err != nil {
			t.Error(err)
		}
	}
}

func TestClusterDomainIsSpeltOneWay(t *testing.T) {
	c, err := Read(writeFile(t, "clusterDomain: Example.Corp."))
	if err != nil || c.ClusterDomain != "example.corp" {
		t.Errorf("%v %v", c, err)
	}
}

func TestConfigDefaults(t *testing.T) {
	for _, path := range []string{"", writeFile(t, "")} {
		c, err := Read(path)
		if err != nil {
			t.Fatal(err)
		}
		if c.VIPs.V4.String() != "240.240.0.0/16" || c.VIPs.V6.String() != "2001:2::/48" {
			t.Errorf("ranges %s and %s", c.VIPs.V4, c.VIPs.V6)
		}
		if c.File != nil || c.Kube != nil || c.Etcd != nil || c.Routes != nil || c.XDS != nil {
			t.Error("sources out of nothing")
		}
	}
}

func TestConfigMistakes(t *testing.T) {
	for text, want := range map[string]string{
		"stateDirr: /x":                          "stateDirr",
		"stateDir: x":                            "stateDir",
		"runDir: ''":                             "runDir",
		"{bpfPath: nodens, cgroup: ../pods}":     "cgroup",
		"clusterDomain: a b":                     "clusterDomain",
		"clusterDomain: ''":                      "clusterDomain",
		"clusterDomain: a..b":                    "clusterDomain",
		"xds: {addr: x}":                         "addr",
		"xds: {namespace: x}":                    "xds.address",
		"xds: {address: x, tls: {ca: y}}":        "ca",
		"xds: {address: x, tokenFile: /y}":       "xds.tls",
		"xds: {address: x, tls: {certFile: /y}}": "keyFile",
		"xds: {address: x, locality: a/b/c/d}":   "region/zone/subzone",
		"file: {}":                               "file.dir",
		"resolvers: [example.com]":               "example.com",
		"vips: {v4: 2001:2::/48}":                "vips.v4",
		"vips: {v6: 240.240.0.0/16}":             "vips.v6",
		"listen: 127.0.0.1":                      "listen",
		"listen: 127.0.0.1:http":                 "listen",
		"listen: ':70000'":                       "listen",
		"nameservers: [nonsense]":                "nonsense",
		"file: {}\nresolvers: [nonsense]":        "nonsense",
		"clusterDomain: a\nclusterDomain: b\n":   "clusterDomain",
	} {
		_, err := Read(writeFile(t, text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: the error is %v, which does not say %q", text, err, want)
		}
	}
	if _, err := Read("/nonexistent/dnsd.yaml"); err == nil {
		t.Error("a file that is not there is no error")
	}
}

// The example must be a configuration that starts.
func TestExampleConfig(t *testing.T) {
	if _, err := Read("../../install/dnsd.yaml"); err != nil {
		t.Error(err)
	}
}
