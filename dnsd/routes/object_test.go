package routes

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

func TestParse(t *testing.T) {
	data, err := os.ReadFile("testdata/dns-record.json")
	if err != nil {
		t.Fatal(err)
	}
	_, got, err := Parse(data)
	want := mesh.Route{Object: "DNS dns-test1", Host: "node1.com", Paths: []mesh.RoutePath{
		{Path: "/service1/", Address: netip.MustParseAddr("10.1.1.10"), Service: "service1", Port: 8010},
		{Path: "/service2/", Address: netip.MustParseAddr("10.1.1.11"), Service: "service2", Port: 8011},
	}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v: %+v", err, got)
	}
	for spec, want := range map[string]string{
		`"path":"/a/b","service":"cart.shop","port":80`:         "/a/b/ invalid IP cart.shop 80",
		`"path":"/","address":"2001:db8::1","port":80`:          "/ 2001:db8::1  80",
		`"path":"x","address":"::ffff:10.0.0.1","port":80`:      "/x/ 10.0.0.1  80",
		`"service":"web","port":0`:                              "port 0",
		`"service":"web"`:                                       "port 0",
		`"port":80`:                                             "neither path nor service",
		`"path":"/x","port":80`:                                 "neither address nor service",
		`"path":"/x","address":"web","port":80`:                 "no IP address",
		`"path":"/x;","service":"web","port":80`:                "may have letters",
		`"path":"/../x","service":"web","port":80`:              "may have letters",
		`"path":"/x//y","service":"web","port":80`:              "may have letters",
		`"service":"we b","port":80`:                            "may have letters",
		`"service":"web","port":80,"rewrite":true`:              "unknown field",
		`"service":"web","port":80}],"extra":[{"service":"web"`: "unknown field",
	} {
		_, r, err := Parse(fmt.Appendf(nil, `{"kind":"DNS","apiVersion":"v1","name":"x","host":"a.test","paths":[{%s}]}`, spec))
		got := fmt.Sprint(err)
		if err == nil {
			p := r.Paths[0]
			got = fmt.Sprintf("%s %s %s %d", p.Path, p.Address, p.Service, p.Port)
		}
		if !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", spec, got, want)
		}
	}
	for text, want := range map[string]string{
		`{"kind":"DNS","name":"x","host":"a b","paths":[{"service":"web","port":1}]}`:         `host "a b"`,
		`{"kind":"DNS","name":"x","host":"10.0.0.1","paths":[{"service":"web","port":1}]}`:    "is an address",
		`{"kind":"DNS","name":"x","host":"*.a.test","paths":[{"service":"web","port":1}]}`:    "no DNS name",
		`{"kind":"DNS","name":"X/y","host":"a.test","paths":[{"service":"web","port":1}]}`:    `name "X/y"`,
		`{"kind":"DNS","name":"x","host":"a.test"}`:                                           "no paths",
		`{"kind":"Dns","name":"x","host":"a.test"}`:                                           "kind",
		`{"kind":"DNS","apiVersion":"v2","name":"x","host":"a.test"}`:                         "DNS v1",
		`{"kind":"DNS","name":"x","host":"a.test","paths":[{"service":"web","port":1}]} {}`:   "more than one",
		`{"kind":"DNS","name":"x","host":"a.test","paths":[{"service":"web","port":"http"}]}`: "port",
	} {
		if _, _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

// whole is every line that a configuration may have; what a user says is between ( and ).
var whole = regexp.MustCompile(`^(# Written by dnsd .*|map \$http_upgrade \$nodens_connection \{|	default upgrade;|	"" close;|\}|server \{|` +
	`	listen (127\.0\.0\.1|\[::1\]):80( default_server)?;|	server_name "";|	location = /nodens/routes \{|		return 200 "[0-9a-f]{16}\\n";|	\}|` +
	`	location / \{|		return (404|503);|upstream nodens_\d+_\d+ \{|	server [0-9a-f.:\[\]]+;|	server_name ([-a-z0-9_.]+);|	client_max_body_size 0;|` +
	`	location (/[-A-Za-z0-9._~/]*) \{|		proxy_pass http://nodens_\d+_\d+/?;|` +
	`		proxy_redirect (http://nodens_\d+_\d+|\$scheme://\$http_host|)/ (\$scheme://\$http_host)?/[-A-Za-z0-9._~/]*;|` +
	`		proxy_http_version 1\.1;|		proxy_set_header [-A-Za-z]+ \$[a-z_]+;|		proxy_connect_timeout 5s;)?$`)

// ours renders objects, and fails if anything but our own words is in what comes of it.
func ours(t *testing.T, routes []mesh.Route) []byte {
	t.Helper()
	all, _ := sites(&mesh.Plan{Routes: routes}, "cluster.local")
	text, _ := render(all, netip.MustParseAddr("127.0.0.1"))
	for line := range strings.Lines(string(text)) {
		if !whole.MatchString(strings.TrimSuffix(line, "\n")) {
			t.Fatalf("%q is not ours, of %+v", line, routes)
		}
	}
	if n := strings.Count(string(text), "server {"); n != len(all)+1 {
		t.Fatalf("%d servers for %d hosts", n, len(all))
	}
	return text
}

// nasty is what somebody would write to have nginx do something else.
var nasty = []string{
	"x; } server { listen 1234; }", "x {", "}", "x;", "$host", "${host}", "a\nb", "a\r\nserver {", "a\tb", `"`, `'`, `\`, "#", "x #y",
	"..", "/../../etc", "/a/../b", "~ ^/x", "= /x", "@named", "^~ /x", "*", "_", "default_server", "unix:/tmp/x", "a b", "%0a", "é",
	"x\x00y", "(?<a>x)", "localhost", "-", ".", "a..b", strings.Repeat("a", 64), strings.Repeat("a/", 600),
}

// TestInjection puts each of them everywhere, and has a real nginx read what comes of all that is let
// through, together.
func TestInjection(t *testing.T) {
	t.Parallel()
	var routes []mesh.Route
	for i, bad := range nasty {
		for field := range 5 {
			o := Object{Kind: "DNS", APIVersion: "v1", Name: fmt.Sprintf("n%d", i), Host: fmt.Sprintf("h%d.test", i), Paths: []Path{{Path: "/p", Address: "127.0.0.1", Service: "s", Port: 80}}}
			*[]*string{&o.Name, &o.Host, &o.Paths[0].Path, &o.Paths[0].Service, &o.Paths[0].Address}[field] = bad
			data, err := json.Marshal(o)
			if err != nil {
				t.Fatal(err)
			}
			if _, r, err := Parse(data); err == nil {
				routes = append(routes, r)
			}
			// And as if it had been let through: what is read back from a disk is checked again.
			routes = append(routes, mesh.Route{Object: bad, Host: bad, Paths: []mesh.RoutePath{{Path: "/" + bad + "/", Service: bad, Port: 80}}},
				mesh.Route{Object: bad, Host: "good.test", Paths: []mesh.RoutePath{{Path: bad, Address: netip.MustParseAddr("127.0.0.1"), Port: 80}}})
		}
	}
	text := ours(t, routes)
	dir := t.TempDir()
	for name, s := range map[string]string{
		"ours.conf": string(text), "nginx.conf": fmt.Sprintf("pid %s/pid;\nevents {}\nhttp {\naccess_log off;\ninclude %s/ours.conf;\n}\n", dir, dir),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.Command(lookNginx(t), "-T", "-q", "-p", dir, "-c", filepath.Join(dir, "nginx.conf")).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got := strings.Count(string(out), "server {"); got != strings.Count(string(text), "server {") || got < 3 {
		t.Errorf("nginx reads %d servers", got)
	}
}

// FuzzParse: whatever an object says, nothing but our own words comes of it.
func FuzzParse(f *testing.F) {
	data, err := os.ReadFile("testdata/dns-record.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	for _, bad := range nasty {
		text, _ := json.Marshal(Object{Kind: "DNS", Name: "x", Host: bad, Paths: []Path{{Path: bad, Service: bad, Port: 1}}})
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, r, err := Parse(data); err == nil {
			ours(t, []mesh.Route{r})
		}
	})
}
