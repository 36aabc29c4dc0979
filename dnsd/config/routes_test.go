package config

import (
	"strings"
	"testing"
)

func TestRoutesConfig(t *testing.T) {
	c, err := Read(writeFile(t, `routes: {file: /etc/nginx/conf.d/nodens.conf, address: 192.168.1.13, nginx: [/usr/sbin/nginx, -c, /etc/nginx/nginx.conf]}`))
	if err != nil || c.Routes.Address.String() != "192.168.1.13" || len(c.Routes.Nginx) != 3 {
		t.Errorf("%v: %+v", err, c.Routes)
	}
	for text, want := range map[string]string{
		`{address: 192.168.1.13}`:               "routes.file",
		`{file: nodens.conf, address: "::1"}`:   "not an absolute path",
		`{file: /x, address: 0.0.0.0}`:          "no address that pods could reach",
		`{file: /x, address: node1}`:            "node1",
		`{file: /x, address: "::1", port: 443}`: `unknown field "port"`,
	} {
		if _, err := Read(writeFile(t, "routes: "+text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: the error is %v, which does not say %s", text, err, want)
		}
	}
}
