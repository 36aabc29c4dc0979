package xds

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

// maxResponse bounds one response. A cluster is about 830 bytes as istiod sends it, so this is room for
// 300,000 of them; gRPC's own 4 MiB would end at 5,000.
const maxResponse = 256 << 20

// TLS says how the control plane is known, and how this node is known to it. The files are read anew
// for each connection, since whoever issues certificates replaces them.
type TLS struct {
	// CAFile has the certificates (PEM) the control plane's is checked against; empty means the system's.
	CAFile string
	// CertFile and KeyFile are this node's own certificate and key (PEM), both or neither.
	CertFile, KeyFile string
	// ServerName is whom the control plane's certificate must be of; empty means the address's host.
	ServerName string
}

// config reads the files.
func (t *TLS) config() (*tls.Config, error) {
	c := &tls.Config{ServerName: t.ServerName, MinVersion: tls.VersionTLS12}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read the control plane's CA: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s has no certificate in PEM form", t.CAFile)
		}
	}
	if t.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("read this node's certificate: %w", err)
		}
		c.Certificates = []tls.Certificate{cert}
	}
	return c, nil
}

// token sends what a file holds with each stream. The file is read each time: a service account's token
// is replaced long before it ends.
type token struct{ file string }

func (t token) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	text, err := os.ReadFile(t.file)
	if err != nil {
		return nil, fmt.Errorf("read the token for the control plane: %w", err)
	}
	return map[string]string{"authorization": "Bearer " + strings.TrimSpace(string(text))}, nil
}

// RequireTransportSecurity keeps the token off wires that anybody can read.
func (t token) RequireTransportSecurity() bool { return true }

// dial prepares a connection; the first use of it connects.
func (s *Source) dial() (*grpc.ClientConn, error) {
	options := []grpc.DialOption{
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxResponse)),
		// A dead peer shows only by keepalive: a quiet stream is the normal state. Istiod refuses
		// pings more often than every 15 s.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: 5 * time.Second}),
		// The control plane is inside the cluster; a proxy from the environment leads out of it.
		grpc.WithNoProxy(),
		grpc.WithUserAgent("nodens"),
	}
	secure := insecure.NewCredentials()
	if s.options.TLS != nil {
		config, err := s.options.TLS.config()
		if err != nil {
			return nil, err
		}
		secure = credentials.NewTLS(config)
	}
	options = append(options, grpc.WithTransportCredentials(secure))
	if s.options.TokenFile != "" {
		options = append(options, grpc.WithPerRPCCredentials(token{s.options.TokenFile}))
	}
	conn, err := grpc.NewClient(s.options.Address, options...)
	if err != nil {
		return nil, fmt.Errorf("control plane address %q: %w", s.options.Address, err)
	}
	return conn, nil
}

// wire is the connection that all streams share, made when one is needed. After a failure the next
// stream makes another, so that the address is looked up anew, the files are read anew and the only
// back-off is that of the streams.
type wire struct {
	mu   sync.Mutex
	conn *connection // nil when the next stream shall make one
}

// connection closes with its last stream.
type connection struct {
	*grpc.ClientConn
	users int
}

// get returns the connection of now, made by dial if there is none. The caller must release it.
func (w *wire) get(dial func() (*grpc.ClientConn, error)) (*connection, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conn == nil {
		conn, err := dial()
		if err != nil {
			return nil, err
		}
		w.conn = &connection{ClientConn: conn}
	}
	w.conn.users++
	return w.conn, nil
}

// release gives a connection back. A broken one is not handed out again.
func (w *wire) release(c *connection, broken bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conn == c && broken {
		w.conn = nil
	}
	if c.users--; c.users > 0 {
		return
	}
	if w.conn == c {
		w.conn = nil
	}
	_ = c.Close()
}
