package routes

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
)

// probePath is where the proxy says which configuration it serves, to whoever asks for no host of ours.
const probePath = "/nodens/routes"

// render writes the whole configuration, for the http block of an nginx: a server that knows no host, so
// that the address is served, and by us, with and without routes; and one for each site. The stamp
// tells it from any other.
func render(all []*site, address netip.Addr) (text []byte, stamp string) {
	listen := netip.AddrPortFrom(address, port).String()
	var b strings.Builder
	for i, s := range all {
		for j, l := range s.paths {
			if len(l.to) == 0 {
				continue
			}
			fmt.Fprintf(&b, "upstream nodens_%d_%d {\n", i, j)
			for _, to := range l.to {
				fmt.Fprintf(&b, "\tserver %s;\n", to)
			}
			b.WriteString("}\n")
		}
	}
	for i, s := range all {
		fmt.Fprintf(&b, "server {\n\tlisten %s;\n\tserver_name %s;\n\tclient_max_body_size 0;\n", listen, s.host)
		root := false
		for j, l := range s.paths {
			root = root || l.path == "/"
			fmt.Fprintf(&b, "\tlocation %s {\n%s\t}\n", l.path, proxy(fmt.Sprintf("nodens_%d_%d", i, j), &l))
		}
		if !root {
			b.WriteString("\tlocation / {\n\t\treturn 404;\n\t}\n")
		}
		b.WriteString("}\n")
	}
	body := b.String()
	hash := sha256.Sum256([]byte(listen + body))
	stamp = hex.EncodeToString(hash[:8])
	return fmt.Appendf(nil, `# Written by dnsd from the routes it knows (dnsd routes list). What is changed here is lost.
map $http_upgrade $nodens_connection {
	default upgrade;
	"" close;
}
server {
	listen %s default_server;
	server_name "";
	location = %s {
		return 200 "%s\n";
	}
	location / {
		return 404;
	}
}
%s`, listen, probePath, stamp, body), stamp
}

// proxy is what stands in the block of one path.
func proxy(upstream string, l *location) string {
	if len(l.to) == 0 {
		return "\t\treturn 503;\n"
	}
	lines := []string{"proxy_pass http://" + upstream + ";"}
	if l.path != "/" {
		// The service sees what comes behind the path, and where it sends a client to is put back behind it.
		lines = []string{
			"proxy_pass http://" + upstream + "/;",
			"proxy_redirect http://" + upstream + "/ " + l.path + ";",
			"proxy_redirect $scheme://$http_host/ $scheme://$http_host" + l.path + ";",
			"proxy_redirect / " + l.path + ";",
		}
	}
	lines = append(lines,
		"proxy_http_version 1.1;",
		"proxy_set_header Host $http_host;",
		"proxy_set_header X-Real-IP $remote_addr;",
		"proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;",
		"proxy_set_header X-Forwarded-Host $http_host;",
		"proxy_set_header X-Forwarded-Proto $scheme;",
		"proxy_set_header Upgrade $http_upgrade;",
		"proxy_set_header Connection $nodens_connection;",
		"proxy_connect_timeout 5s;",
	)
	return "\t\t" + strings.Join(lines, "\n\t\t") + "\n"
}
