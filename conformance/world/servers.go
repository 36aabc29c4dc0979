package world

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// EtcdAddress is where the node's etcd answers, for the node alone.
const EtcdAddress = "http://127.0.0.1:2379"

// NodeAddress is the node's own, at which pods reach it.
func (w *World) NodeAddress() string { return nodeUplink[0].Addr().String() }

// StartEtcd starts a real etcd on the node and waits until it answers. What it had stored is there again.
func (w *World) StartEtcd() error {
	path, err := exec.LookPath("etcd")
	if err != nil {
		return fmt.Errorf("%w: make deps installs it (Debian: etcd-server)", err)
	}
	cmd := exec.Command(path, "--data-dir", w.path("etcd"), "--listen-client-urls", EtcdAddress, "--advertise-client-urls", EtcdAddress,
		"--unsafe-no-fsync", "--log-level", "error")
	if w.etcd, err = w.launch(w.Node, w.path("etcd.log"), cmd); err != nil {
		return err
	}
	return Until(time.Minute, func() error {
		status, body, err := w.Get(EtcdAddress + "/health")
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("status %d: %s", status, body)
		}
		return err
	})
}

// StopEtcd kills it.
func (w *World) StopEtcd() error {
	if w.etcd == nil {
		return errors.New("no etcd was started")
	}
	return w.etcd.end(syscall.SIGKILL, 20*time.Second)
}

// Etcd asks etcd by its JSON gateway: "put", "deleterange", "compaction". Bytes in fields become base64.
func (w *World) Etcd(call string, fields map[string]any) (string, error) {
	text, err := json.Marshal(fields)
	if err != nil {
		return "", err
	}
	status, body, err := w.fetch(http.MethodPost, EtcdAddress+"/v3/kv/"+call, string(text))
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("etcd %s: status %d: %s", call, status, body)
	}
	return body, err
}

// StartNginx starts a real nginx on the node, whose configuration includes the folder NginxDir.
func (w *World) StartNginx() error {
	path := "/usr/sbin/nginx"
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("%w: make deps installs it (Debian: nginx-light)", err)
	}
	if err := os.MkdirAll(w.NginxDir(), 0o755); err != nil {
		return err
	}
	conf := strings.NewReplacer("DIR", filepath.Dir(w.NginxDir())).Replace(`
daemon off; worker_processes 2; pid DIR/pid; error_log stderr error;
events {}
http {
	access_log off; client_body_temp_path DIR/body; proxy_temp_path DIR/proxy; fastcgi_temp_path DIR/f; scgi_temp_path DIR/s; uwsgi_temp_path DIR/u;
	include DIR/conf.d/*.conf;
}
`)
	if err := os.WriteFile(w.NginxConf(), []byte(conf), 0o644); err != nil {
		return err
	}
	if _, err := w.launch(w.Node, w.path("nginx.log"), exec.Command(path, "-c", w.NginxConf())); err != nil {
		return err
	}
	return Until(time.Minute, func() error {
		_, err := os.Stat(filepath.Join(filepath.Dir(w.NginxDir()), "pid"))
		return err
	})
}

// NginxDir is what nginx includes, NginxConf what it begins with.
func (w *World) NginxDir() string { return w.path("nginx/conf.d") }

// NginxConf is nginx's own configuration.
func (w *World) NginxConf() string { return w.path("nginx/nginx.conf") }

// Serve has the internet serve pages at address:port: each says the name and the path that was asked for.
func (w *World) Serve(at, name string) error {
	var ln net.Listener
	err := w.Internet.Do(func() (err error) {
		ln, err = new(net.ListenConfig).Listen(context.Background(), "tcp", at)
		return err
	})
	if err != nil {
		return err
	}
	w.internet.keep(ln)
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(rw, "%s %s for %s\n", name, r.URL, r.Header.Get("X-Forwarded-For"))
	})}
	w.internet.keep(server)
	w.internet.wg.Go(func() { _ = server.Serve(ln) })
	return nil
}

// StartOnNode starts a further program on the node, until the world ends; its output goes to a file of the
// world.
func (w *World) StartOnNode(log string, cmd *exec.Cmd) error {
	_, err := w.launch(w.Node, w.path(log), cmd)
	return err
}
