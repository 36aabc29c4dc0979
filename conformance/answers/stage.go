package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	_ "embed"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/nodens-dns/nodens/conformance/app"
	"github.com/nodens-dns/nodens/conformance/kubeapi"
	"github.com/nodens-dns/nodens/conformance/world"
)

//go:embed testdata/objects.yaml
var objects string

// corednsAddress is on the node, at a port that nobody captures.
const corednsAddress = "10.244.0.1:5399"

// stage is what the answers come from.
type stage struct {
	w          *world.World
	dir        string
	kubeconfig string
	ends       []func()
}

func (s *stage) close() {
	for i := len(s.ends) - 1; i >= 0; i-- {
		s.ends[i]()
	}
}

func (s *stage) path(name string) string { return filepath.Join(s.dir, name) }

// start runs a program on the node until close.
func (s *stage) start(name string, args ...string) error {
	log, err := os.Create(s.path(filepath.Base(name) + "-" + args[0] + ".log"))
	if err != nil {
		return err
	}
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, s.dir
	if err := s.w.Node.Do(cmd.Start); err != nil {
		return err
	}
	s.ends = append(s.ends, func() {
		_ = cmd.Process.Kill() // a server that drains waits for the others
		_ = cmd.Wait()
		_ = log.Close()
	})
	return nil
}

// serveAPI starts an API server with the objects in it.
func (s *stage) serveAPI(ctx context.Context, parts string) error {
	s.kubeconfig = s.path("kubeconfig")
	if parts != "" {
		return s.serveRealAPI(ctx, parts)
	}
	var ln net.Listener
	err := s.w.Node.Do(func() (err error) {
		ln, err = net.Listen("tcp", "127.0.0.1:6443")
		return err
	})
	if err != nil {
		return err
	}
	api := kubeapi.Serve(ln)
	s.ends = append(s.ends, api.Close)
	if err := api.Put(objects); err != nil {
		return err
	}
	return api.WriteKubeconfig(s.kubeconfig)
}

// serveRealAPI starts etcd and kube-apiserver, and applies the objects with kubectl.
func (s *stage) serveRealAPI(ctx context.Context, parts string) error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	if err := os.WriteFile(s.path("sa.key"), text, 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(s.kubeconfig, []byte(`apiVersion: v1
kind: Config
current-context: here
clusters: [{name: here, cluster: {server: "https://127.0.0.1:6443", insecure-skip-tls-verify: true}}]
contexts: [{name: here, context: {cluster: here, user: anybody}}]
users: [{name: anybody, user: {token: anybody}}]
`), 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(s.path("tokens.csv"), []byte("anybody,admin,admin,system:masters\n"), 0o600); err != nil {
		return err
	}
	if err := s.start(parts, "etcd", "--data-dir", s.path("etcd"), "--unsafe-no-fsync"); err != nil {
		return err
	}
	if err := s.start(parts, "apiserver", "--etcd-servers", "http://127.0.0.1:2379", "--cert-dir", s.path("certs"),
		"--bind-address", "127.0.0.1", "--secure-port", "6443", "--token-auth-file", s.path("tokens.csv"),
		"--authorization-mode", "RBAC", "--service-cluster-ip-range", "10.97.0.0/16,fd97::/112",
		"--service-account-issuer", "https://here", "--service-account-key-file", s.path("sa.key"),
		"--service-account-signing-key-file", s.path("sa.key"), "--disable-admission-plugins", "ServiceAccount"); err != nil {
		return err
	}
	if err := s.ready(ctx); err != nil {
		return err
	}
	if err := os.WriteFile(s.path("objects.yaml"), []byte(objects), 0o600); err != nil {
		return err
	}
	return s.w.Node.Do(func() error {
		cmd := exec.CommandContext(ctx, parts, "kubectl", "--kubeconfig", s.kubeconfig, "create", "-f", s.path("objects.yaml"))
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("kubectl: %w\n%s", err, out)
		}
		return nil
	})
}

// ready waits for the API server.
func (s *stage) ready(ctx context.Context) error {
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // its certificate is its own
		DialContext: func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
			err = s.w.Node.Do(func() (err error) {
				conn, err = (&net.Dialer{}).DialContext(ctx, network, addr)
				return err
			})
			return conn, err
		},
	}}
	return world.Until(3*time.Minute, func() error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://127.0.0.1:6443/readyz", nil)
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer anybody")
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("not ready: %s", resp.Status)
		}
		return nil
	})
}

// serveDNS starts both servers, and a pod that asks them.
func (s *stage) serveDNS(_ context.Context, coredns string) (*world.Pod, error) {
	for name, addr := range map[string]string{"www.ext.example.net": "203.0.113.90", "www.example.com": "203.0.113.91"} {
		if err := s.w.Zone.Set(name, "A", 60, addr); err != nil {
			return nil, err
		}
	}
	if err := s.w.Configure(map[string]any{"xds": nil, "file": nil, "kube": map[string]any{"kubeconfig": s.kubeconfig}}); err != nil {
		return nil, err
	}
	if err := s.w.StartDnsd(true); err != nil {
		return nil, err
	}
	pod, err := s.w.NewPod(world.PodSpec{Name: "asker", Namespace: "shop", IPv6: true})
	if err != nil {
		return nil, err
	}
	corefile := fmt.Appendf(nil, `.:5399 {
    bind 10.244.0.1
    errors
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        kubeconfig %s
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 30
    }
    forward . %s
    loadbalance
}
`, s.kubeconfig, world.Nameservers[0])
	if err := os.WriteFile(s.path("Corefile"), corefile, 0o600); err != nil {
		return nil, err
	}
	if err := s.start(coredns, "-conf", s.path("Corefile")); err != nil {
		return nil, err
	}
	return pod, world.Until(2*time.Minute, func() error {
		for _, server := range []string{corednsAddress, world.Nameservers[0].String()} {
			r, err := pod.Dig(app.Question{Name: "cart.shop.svc.cluster.local.", Server: server})
			if err != nil {
				return err
			}
			if len(r.Answer) != 1 {
				log, _ := os.ReadFile(s.path("coredns--conf.log"))
				return fmt.Errorf("%s does not know the services: %s\n%s", server, r, bytes.TrimSpace(log))
			}
		}
		return nil
	})
}
