package config

import (
	"strings"
	"testing"
)

func TestEtcdConfig(t *testing.T) {
	c, err := Read(writeFile(t, `
etcd:
  endpoints: ["https://10.0.0.1:2379", "https://etcd.example:2379/"]
  path: /dns
  zones: [Example.com., 0.0.10.in-addr.arpa]
  tls: {caFile: /etc/ca.pem}
  user: nodens
  passwordFile: /etc/password
`))
	if err != nil {
		t.Fatal(err)
	}
	if e := c.Etcd; len(e.Endpoints) != 2 || e.TLS.CAFile != "/etc/ca.pem" || e.User != "nodens" || e.PasswordFile != "/etc/password" {
		t.Errorf("%+v", e)
	}
	for text, want := range map[string]string{
		`{}`:                                   "etcd.endpoints is empty",
		`{endpoints: ["10.0.0.1:2379"]}`:       `etcd.endpoints[0]: "10.0.0.1:2379"`,
		`{endpoints: ["http://a:1/x"]}`:        "etcd.endpoints[0]",
		`{endpoints: ["http://a:1"], tls: {}}`: "is not https",
		`{endpoints: ["http://a:1"], user: x, passwordFile: /p}`: "could read the password",
		`{endpoints: ["https://a:1"], user: x}`:                  "passwordFile",
		`{endpoints: ["https://a:1"], user: x, passwordFile: p}`: "absolute",
		`{endpoints: ["https://a:1"], tls: {certFile: x}}`:       "keyFile",
		`{endpoints: ["http://a:1"], path: /}`:                   "etcd.path",
		`{endpoints: ["http://a:1"], zones: [10.0.0.0/24]}`:      "0.0.10.in-addr.arpa",
		`{endpoints: ["http://a:1"], zone: x}`:                   `unknown field "zone"`,
	} {
		if _, err := Read(writeFile(t, "etcd: "+text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: the error is %v, which does not say %s", text, err, want)
		}
	}
	if _, err := Read(writeFile(t, `etcd: {endpoints: ["http://127.0.0.1:1"], user: x, passwordFile: /p}`)); err != nil {
		t.Errorf("a password that stays on the node: %v", err)
	}
}
