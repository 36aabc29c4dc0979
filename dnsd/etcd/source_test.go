package etcd

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

func TestFollow(t *testing.T) {
	t.Parallel()
	s := newServer(t, "http")
	store := Store{Endpoints: []string{s.endpoint()}}
	c := s.client(store)
	s.put(c, "/dns/com/node1", `{"host":"192.168.1.13"}`)
	s.put(c, "/dns/com/bad", `nonsense`)
	s.put(c, "/dnsx/com/other", `{"host":"192.168.1.14"}`)
	for i := range page + 10 { // more than are read at a time
		s.put(c, fmt.Sprintf("/dns/many/n%04d", i), `{"host":"192.0.2.1"}`)
	}
	said := watch(t, Options{Store: store, Path: "/dns"})
	until(t, said, "node1.com 30 192.168.1.13", "problem key /dns/com/bad: is not a SkyDNS value", "n1009.many 30", "!other")

	s.put(c, "/dns/com/node1", `{"host":"192.168.1.15","ttl":9}`)
	s.put(c, "/dns/com/bad", `{"host":"mended.example"}`)
	until(t, said, "node1.com 9 192.168.1.15", "bad.com 30 CNAME mended.example", "!problem")

	s.put(c, "/dns/com/node1", `{`)
	until(t, said, "!node1.com 9", "problem key /dns/com/node1", "bad.com")
	if _, err := c.Delete(t.Context(), "/dns/", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	until(t, said, "!com", "!many")
}

// TestLease: no client may remember a key for longer than it was to live, and it goes with its lease.
func TestLease(t *testing.T) {
	t.Parallel()
	s := newServer(t, "http")
	store := Store{Endpoints: []string{s.endpoint()}}
	c := s.client(store)
	lease, err := c.Grant(t.Context(), 600)
	if err != nil {
		t.Fatal(err)
	}
	s.put(c, "/skydns/test/long", `{"host":"192.0.2.1","ttl":3600}`, clientv3.WithLease(lease.ID))
	s.put(c, "/skydns/test/short", `{"host":"192.0.2.2","ttl":60}`, clientv3.WithLease(lease.ID))
	said := watch(t, Options{Store: store})
	until(t, said, "long.test 600 192.0.2.1", "short.test 60 192.0.2.2")
	s.put(c, "/skydns/test/none", `{"host":"192.0.2.3"}`, clientv3.WithLease(lease.ID))
	until(t, said, "none.test 600 192.0.2.3")
	if _, err := c.Revoke(t.Context(), lease.ID); err != nil {
		t.Fatal(err)
	}
	until(t, said, "!test")
}

// TestOutage: what was said stays while the store is away, and what changed meanwhile is made up for, also
// what the store has forgotten, and where another one is in its place.
func TestOutage(t *testing.T) {
	t.Parallel()
	s := newServer(t, "http")
	store := Store{Endpoints: []string{s.endpoint()}}
	c := s.client(store)
	s.put(c, "/skydns/test/a", `{"host":"192.0.2.1"}`)
	s.put(c, "/skydns/test/b", `{"host":"192.0.2.2"}`)
	said := watch(t, Options{Store: store})
	until(t, said, "a.test 30 192.0.2.1", "b.test")

	s.stop()
	until(t, said, "a.test 30 192.0.2.1", "problem etcd "+s.endpoint(), "what it said last stays")
	s.start()
	until(t, said, "a.test 30 192.0.2.1", "!problem")
	c = s.client(store)
	s.put(c, "/skydns/test/a", `{"host":"192.0.2.7"}`)
	until(t, said, "a.test 30 192.0.2.7")

	// While nobody watches, the store goes on and forgets.
	s.stop()
	until(t, said, "problem etcd")
	ip := s.ip
	s.ip = ownIP()
	s.start()
	c = s.client(Store{Endpoints: []string{s.endpoint()}})
	if _, err := c.Delete(t.Context(), "/skydns/test/b"); err != nil {
		t.Fatal(err)
	}
	at := s.put(c, "/skydns/test/c", `{"host":"192.0.2.3"}`)
	if _, err := c.Compact(t.Context(), at, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	s.stop()
	s.ip = ip
	s.start()
	until(t, said, "a.test 30 192.0.2.7", "c.test 30 192.0.2.3", "!b.test", "!problem")

	// And another store altogether is not mistaken for the same, though it calls itself the same and is at a
	// later revision than the first one ever was.
	s.stop()
	until(t, said, "problem etcd")
	s.dir, s.ip = t.TempDir(), ownIP()
	s.start()
	c = s.client(Store{Endpoints: []string{s.endpoint()}})
	for range 100 {
		s.put(c, "/skydns/test/new", `{"host":"192.0.2.9"}`)
	}
	s.stop()
	s.ip = ip
	s.start()
	until(t, said, "new.test 30 192.0.2.9", "!a.test", "!c.test", "!problem")
}

// TestHalfRead: a read that fails half-way leaves what was said, and is done again.
func TestHalfRead(t *testing.T) {
	t.Parallel()
	s := newServer(t, "http")
	store := Store{Endpoints: []string{s.endpoint()}}
	c := s.client(store)
	for i := range page + 10 {
		s.put(c, fmt.Sprintf("/skydns/many/n%04d", i), `{"host":"192.0.2.1"}`)
	}
	lease, err := c.Grant(t.Context(), 600)
	if err != nil {
		t.Fatal(err)
	}
	s.put(c, "/skydns/many/z", `{"host":"192.0.2.1"}`, clientv3.WithLease(lease.ID))
	source := New(Options{Store: store})
	client, err := store.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	leases := client.Lease
	client.Lease = failing{leases} // asked for on the second page
	if _, err := source.read(t.Context(), client); err == nil || !strings.Contains(err.Error(), "no answer") {
		t.Fatalf("though a lease could not be asked about: %v", err)
	}
	source.emit(func(in mesh.Input) { t.Errorf("of a half it says %d hosts", len(in.Hosts)) })
	client.Lease = leases
	if _, err := source.read(t.Context(), client); err != nil {
		t.Fatal(err)
	}
	names := 0
	source.emit(func(in mesh.Input) { names = len(in.Hosts) })
	if names != page+11 {
		t.Errorf("%d names", names)
	}
}

// failing answers nothing about leases.
type failing struct{ clientv3.Lease }

func (failing) TimeToLive(context.Context, clientv3.LeaseID, ...clientv3.LeaseOption) (*clientv3.LeaseTimeToLiveResponse, error) {
	return nil, errors.New("no answer")
}

func TestUser(t *testing.T) {
	t.Parallel()
	s := newServer(t, "http")
	c := s.client(Store{Endpoints: []string{s.endpoint()}})
	s.put(c, "/skydns/test/a", `{"host":"192.0.2.1"}`)
	ctx := t.Context()
	for _, do := range []func() error{
		func() error { _, err := c.RoleAdd(ctx, "root"); return err },
		func() error { _, err := c.UserAdd(ctx, "root", "r"); return err },
		func() error { _, err := c.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := c.RoleAdd(ctx, "reader"); return err },
		func() error {
			_, err := c.RoleGrantPermission(ctx, "reader", "/skydns/", clientv3.GetPrefixRangeEnd("/skydns/"), clientv3.PermissionType(clientv3.PermRead))
			return err
		},
		func() error { _, err := c.UserAdd(ctx, "nodens", "secret"); return err },
		func() error { _, err := c.UserGrantRole(ctx, "nodens", "reader"); return err },
		func() error { _, err := c.AuthEnable(ctx); return err },
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(t.TempDir(), "password")
	write(t, file, "wrong\n")
	said := watch(t, Options{Store: Store{Endpoints: []string{s.endpoint()}, User: "nodens", PasswordFile: file}})
	until(t, said, "pending", "problem etcd", "authentication failed", "!a.test")
	write(t, file, "secret\n") // read anew
	until(t, said, "a.test 30 192.0.2.1")
	root, err := quietly(s.endpoint(), "root", "r")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = root.Close() }()
	s.put(root, "/skydns/test/b", `{"host":"192.0.2.2"}`)
	until(t, said, "b.test 30 192.0.2.2")
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, cert, key := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	s := &server{t: t, dir: t.TempDir(), scheme: "https", ip: ownIP(), args: []string{"--cert-file", cert, "--key-file", key, "--client-cert-auth", "--trusted-ca-file", ca}}
	certificates(t, s.ip, ca, cert, key)
	t.Cleanup(s.stop)
	s.start()
	store := Store{Endpoints: []string{s.endpoint()}, TLS: &TLS{CAFile: ca, CertFile: cert, KeyFile: key}}
	c := s.client(store)
	s.put(c, "/skydns/test/a", `{"host":"192.0.2.1"}`)
	until(t, watch(t, Options{Store: store}), "a.test 30 192.0.2.1")
	store.TLS = &TLS{CertFile: cert, KeyFile: key}
	if err := store.reach(t.Context()); err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("whoever is trusted by the system does not know etcd's authority, but: %v", err)
	}
}

// certificates writes an authority, and what it signed for etcd and its clients alike.
func certificates(t *testing.T, ip, ca, cert, key string) {
	t.Helper()
	authority, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotBefore: time.Now().Add(-time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotAfter: time.Now().Add(24 * time.Hour)}
	root, err := x509.CreateCertificate(rand.Reader, template, template, authority.Public(), authority)
	if err != nil {
		t.Fatal(err)
	}
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "etcd"}, NotBefore: time.Now().Add(-time.Hour), IPAddresses: []net.IP{net.ParseIP(ip)},
		NotAfter: time.Now().Add(24 * time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, template, own.Public(), authority)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(own)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{
		ca: {Type: "CERTIFICATE", Bytes: root}, cert: {Type: "CERTIFICATE", Bytes: leaf}, key: {Type: "PRIVATE KEY", Bytes: der},
	} {
		write(t, path, string(pem.EncodeToMemory(block)))
	}
}
