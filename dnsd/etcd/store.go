package etcd

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// DefaultPath is what SkyDNS keys begin with unless it is said otherwise.
const DefaultPath = "/skydns"

// callTimeout bounds one question to the store.
const callTimeout = 5 * time.Second

// Store says where the store is, and as whom it is asked.
type Store struct {
	// Endpoints are its members, as http:// or https:// URLs.
	Endpoints []string
	// TLS, where an endpoint is https, says whom to trust; nil means whom the system does.
	TLS *TLS
	// User and the password in PasswordFile are for a store that wants them; read anew for each connection.
	User, PasswordFile string
}

// TLS are files in PEM form, read anew for each connection. The store's certificate must be for the host of
// its endpoint.
type TLS struct {
	// CAFile is whom the store's certificate must be from; empty means whom the system trusts.
	CAFile string
	// CertFile and KeyFile are this node's own, both or neither.
	CertFile, KeyFile string
}

// connect returns a client of the store, for the caller to close. It asks for nothing yet, unless there
// is a user: a token is got first then.
func (s *Store) connect(ctx context.Context) (*clientv3.Client, error) {
	config := clientv3.Config{
		Context: ctx, Endpoints: s.Endpoints, Username: s.User, Logger: zap.NewNop(),
		DialTimeout: callTimeout, DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: callTimeout,
	}
	var err error
	if s.PasswordFile != "" {
		password, err := os.ReadFile(s.PasswordFile)
		if err != nil {
			return nil, fmt.Errorf("read etcd's password: %w", err)
		}
		config.Password = strings.TrimRight(string(password), "\r\n")
	}
	if config.TLS, err = s.TLS.config(); err != nil {
		return nil, err
	}
	client, err := clientv3.New(config)
	if err != nil {
		return nil, fmt.Errorf("connect to etcd at %s: %w", strings.Join(s.Endpoints, ", "), err)
	}
	return client, nil
}

// why returns the reason behind a question that nobody answered in time, or behind the end of a connection,
// if there is one to be had.
func (s *Store) why(ctx context.Context, err error) error {
	if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, errLost) {
		return err
	}
	return cmp.Or(s.reach(context.WithoutCancel(ctx)), err)
}

// reach says why none of the endpoints can be reached, which the client keeps to itself; nil if one can.
func (s *Store) reach(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	config, err := s.TLS.config()
	if err != nil {
		return err
	}
	var errs []error
	for _, endpoint := range s.Endpoints {
		u, err := url.Parse(endpoint)
		if err != nil {
			return err
		}
		var conn net.Conn
		if u.Scheme == "https" {
			conn, err = (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", u.Host)
		} else {
			conn, err = new(net.Dialer).DialContext(ctx, "tcp", u.Host)
		}
		if err == nil {
			return conn.Close()
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (t *TLS) config() (*tls.Config, error) {
	if t == nil {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read whom to trust: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s has no certificate in PEM", t.CAFile)
		}
	}
	if t.CertFile != "" {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
			return &cert, err
		}
	}
	return c, nil
}
