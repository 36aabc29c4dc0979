package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// writeCA writes a certificate that may sign others to a file.
func writeCA(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestZonesConfig(t *testing.T) {
	c, err := Read(writeFile(t, fmt.Sprintf(`
zones:
- {name: Corp.Example., servers: ["192.0.2.1", "192.0.2.1:5353", "tls://192.0.2.2:853#dns.Corp.example", "tls://2001:db8::1"], ca: %s}
- {name: lab_1.corp.example, servers: ["2001:db8::2", "[2001:db8::2]:5353", "::ffff:192.0.2.9", "tls://[2001:db8::3]:8853"]}
- {name: ., servers: ["tls://192.0.2.3#dns.example."]}
`, writeCA(t))))
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, z := range c.ForwardZones {
		fmt.Fprintf(&got, "%s:", z.Name)
		for _, s := range z.Servers {
			fmt.Fprintf(&got, " %s", s.Addr)
			if s.TLS != nil {
				fmt.Fprintf(&got, "/tls=%s,%v", s.TLS.ServerName, s.TLS.RootCAs != nil)
			}
		}
		got.WriteString("\n")
	}
	want := `corp.example.: 192.0.2.1:53 192.0.2.1:5353 192.0.2.2:853/tls=dns.Corp.example,true [2001:db8::1]:853/tls=,true
lab_1.corp.example.: [2001:db8::2]:53 [2001:db8::2]:5353 192.0.2.9:53 [2001:db8::3]:8853/tls=,false
.: 192.0.2.3:853/tls=dns.example,false
`
	if got.String() != want {
		t.Errorf("got\n%swant\n%s", &got, want)
	}
}

func TestZonesConfigMistakes(t *testing.T) {
	ca, junk := writeCA(t), writeFile(t, "no certificate")
	for text, want := range map[string]string{
		`{name: a..b, servers: ["192.0.2.1"]}`:                                  `zones[0].name: "a..b"`,
		`{name: "", servers: ["192.0.2.1"]}`:                                    `zones[0].name: ""`,
		`{name: "*.corp", servers: ["192.0.2.1"]}`:                              `zones[0].name: "*.corp"`,
		`{servers: ["192.0.2.1"]}`:                                              "zones[0].name",
		`{name: a, servers: ["192.0.2.1"]}, {name: A., servers: ["192.0.2.1"]}`: `zones[1].name: "A." is there twice`,
		`{name: a}`:                         "zones[0].servers: name at least one",
		`{name: a, servers: [dns.example]}`: `zones[0].servers[0]: "dns.example"`,
		`{name: a, servers: ["192.0.2.1", "192.0.2.1:0"]}`:                  "zones[0].servers[1]",
		`{name: a, servers: ["0.0.0.0"]}`:                                   "zones[0].servers[0]",
		`{name: a, servers: ["192.0.2.1#dns.example"]}`:                     "zones[0].servers[0]",
		`{name: a, servers: ["tls://192.0.2.1#"]}`:                          "zones[0].servers[0]",
		`{name: a, servers: ["tls://dns.example"]}`:                         "zones[0].servers[0]",
		`{name: a, servers: ["https://192.0.2.1"]}`:                         "zones[0].servers[0]",
		`{name: a, servers: ["192.0.2.1", "192.0.2.1:53"]}`:                 "zones[0].servers[1]: 192.0.2.1:53 is there twice",
		`{name: a, servers: ["192.0.2.1"], ca: ` + ca + `}`:                 "zones[0].ca: no server",
		`{name: a, servers: ["tls://192.0.2.1"], ca: ` + junk + `}`:         "zones[0].ca: " + junk,
		`{name: a, servers: ["tls://192.0.2.1"], ca: ca.pem}`:               "zones[0].ca",
		`{name: a, servers: ["tls://192.0.2.1"], ca: /nonexistent/ca.pem}`:  "zones[0].ca: open /nonexistent/ca.pem",
		`{name: a, server: ["192.0.2.1"]}`:                                  `unknown field "server"`,
		`{name: a, servers: ["x"]}, {name: b, servers: ["192.0.2.1", "y"]}`: `zones[1].servers[1]: "y"`,
	} {
		_, err := Read(writeFile(t, "zones: ["+text+"]"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: the error is %v, which does not say %s", text, err, want)
		}
	}
}
