package xds

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/nodens-dns/nodens/dnsd/mesh"
)

// namespaceOf reads the first request of a stream, which says whom it is for.
func namespaceOf(t *testing.T, s *serverStream) string {
	t.Helper()
	r := s.next(t, clusterType)
	s.next(t, listenerType)
	s.next(t, nameTableType)
	return r.Node.GetMetadata().GetFields()["NAMESPACE"].GetStringValue()
}

// acceptFor takes a stream for each of the namespaces.
func acceptFor(t *testing.T, cp *controlPlane, namespaces ...string) map[string]*serverStream {
	t.Helper()
	streams := map[string]*serverStream{}
	for range namespaces {
		s := cp.accept(t)
		streams[namespaceOf(t, s)] = s
	}
	for _, ns := range namespaces {
		if streams[ns] == nil {
			t.Fatalf("no stream for %s", ns)
		}
	}
	return streams
}

// say pushes listeners, and no more, as a whole mesh.
func (s *serverStream) say(t *testing.T, version string, listeners ...string) {
	t.Helper()
	s.push(t, clusterType, version)
	s.push(t, nameTableType, version)
	r := &discoveryv3.DiscoveryResponse{TypeUrl: listenerType, VersionInfo: version, Nonce: version + " of " + listenerType}
	for _, l := range listeners {
		r.Resources = append(r.Resources, tcpListener(t, l, "192.0.2."+l, 80, "c"))
	}
	if err := s.Send(r); err != nil {
		t.Fatal(err)
	}
	s.next(t, listenerType)
}

// views lists an input's listeners as "name" or "name for namespace".
func views(in mesh.Input) string {
	var all []string
	for _, l := range in.Listeners {
		all = append(all, strings.TrimSpace(l.Name+" "+l.View))
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

func TestStreamsFollowNamespaces(t *testing.T) {
	cp := listen(t)
	src, inputs := start(t, Options{Address: cp.addr, Node: node1}, nil)
	if len(src.Streams()) != 0 {
		t.Error("a stream for nobody")
	}
	src.Follow([]string{"two", "one", "one"})
	streams := acceptFor(t, cp, "one", "two")
	streams["two"].say(t, "1", "1", "2")
	if len(inputs) > 0 {
		t.Error("the first to be heard did not wait for the other")
	}
	streams["one"].say(t, "1", "1", "3")
	in := seen(t, inputs, "what both say", func(mesh.Input) bool { return true })
	if got := views(in); got != "1, 2 two, 3 one" {
		t.Errorf("listeners %s", got)
	}

	src.Follow([]string{"one", "three", "two"})
	third := acceptFor(t, cp, "three")["three"]
	streams["one"].say(t, "2", "1")
	// Three has not spoken, so it has no part in what all agree on.
	seen(t, inputs, "a new word of one", func(in mesh.Input) bool { return views(in) == "1, 2 two" })
	third.say(t, "1", "2")
	seen(t, inputs, "the word of three", func(in mesh.Input) bool { return views(in) == "1 one, 1 two, 2 three, 2 two" })

	src.Follow([]string{"three"})
	seen(t, inputs, "three alone", func(in mesh.Input) bool { return views(in) == "2" })
	if s := src.Streams(); len(s) != 1 || s[0].Namespace != "three" {
		t.Errorf("streams %+v", s)
	}
	select {
	case <-streams["one"].Context().Done():
	case <-time.After(patient):
		t.Error("the stream of one is still open")
	}
	src.Follow(nil)
	for len(src.Streams()) > 0 {
		await(t, time.After(time.Millisecond), "tick")
	}
	if len(inputs) > 0 {
		t.Errorf("without a pod there was an input:\n%s", show(<-inputs))
	}
}

// A pod that restarts must not cost a stream, and who comes back within the time finds it as it was.
func TestStreamOutlivesItsLastPod(t *testing.T) {
	cp := listen(t)
	src, inputs := start(t, Options{Address: cp.addr, Node: node1}, func(tm *timing) { tm.linger = time.Hour })
	src.Follow([]string{"one", "two"})
	streams := acceptFor(t, cp, "one", "two")
	streams["one"].say(t, "1", "1")
	streams["two"].say(t, "1", "1")
	await(t, inputs, "input")
	src.Follow([]string{"one"})
	src.Follow([]string{"one", "two"})
	streams["two"].say(t, "2", "1", "2")
	seen(t, inputs, "a word of two", func(in mesh.Input) bool { return views(in) == "1, 2 two" })
	if len(cp.streams) > 0 {
		t.Error("another stream was opened")
	}
}

func TestLossOfOneStream(t *testing.T) {
	cp := listen(t)
	src, inputs := start(t, Options{Address: cp.addr, Node: node1}, nil)
	src.Follow([]string{"one", "two"})
	streams := acceptFor(t, cp, "one", "two")
	streams["one"].say(t, "1", "1")
	streams["two"].end <- status.Error(codes.PermissionDenied, "no identity matches")
	in := seen(t, inputs, "a problem", func(in mesh.Input) bool { return lostReason(in) != "" })
	if r := lostReason(in); views(in) != "1" || !strings.Contains(r, "no answer yet for two") || !strings.Contains(r, "set xds.namespace") {
		t.Errorf("%s; problems %+v", views(in), in.Problems)
	}
	acceptFor(t, cp, "two")["two"].say(t, "1", "1", "2")
	seen(t, inputs, "both", func(in mesh.Input) bool { return lostReason(in) == "" && views(in) == "1, 2 two" })
}

// authority issues certificates for a test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t}
	a.cert, a.key, _, _ = issue(t, nil, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return a
}

// files writes a certificate for name, its key and the authority's certificate.
func (a *authority) files(name string) (ca, cert, key string) {
	_, _, certPEM, keyPEM := issue(a.t, a, &x509.Certificate{
		DNSNames: []string{name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	dir := a.t.TempDir()
	ca, cert, key = filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	caPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
	for path, text := range map[string][]byte{ca: caPEM, cert: certPEM, key: keyPEM} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	return ca, cert, key
}

func issue(t *testing.T, by *authority, c *x509.Certificate) (cert *x509.Certificate, key *ecdsa.PrivateKey, certPEM, keyPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c.SerialNumber, c.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: "test"}
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := c, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	if cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

// listenTLS starts a control plane that has a certificate for name and wants one of the same authority.
func (a *authority) listenTLS(name string) *controlPlane {
	a.t.Helper()
	_, certFile, keyFile := a.files(name)
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		a.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		a.t.Fatal(err)
	}
	return serve(a.t, ln, ln.Addr().String(), grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{cert}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
	})))
}

func TestTLSAndToken(t *testing.T) {
	a := newAuthority(t)
	ca, cert, key := a.files("node1")
	tokenFile := filepath.Join(t.TempDir(), "token")
	write := func(text string) {
		if err := os.WriteFile(tokenFile, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first\n")
	cp := a.listenTLS("istiod.test")
	_, inputs := start(t, Options{
		Address: cp.addr, Namespace: "ns1", Node: node1, TokenFile: tokenFile,
		TLS: &TLS{CAFile: ca, CertFile: cert, KeyFile: key, ServerName: "istiod.test"},
	}, nil)
	s := cp.accept(t)
	bearer := func(s *serverStream) string {
		md, _ := metadata.FromIncomingContext(s.Context())
		return strings.Join(md.Get("authorization"), ",")
	}
	if got := bearer(s); got != "Bearer first" {
		t.Errorf("authorization %q", got)
	}
	s.begin(t)
	s.say(t, "1", "1")
	await(t, inputs, "input")
	// The token is replaced while the stream is open; the next one has the new.
	write("second\n")
	s.end <- status.Error(codes.Unauthenticated, "token expired")
	if got := bearer(cp.accept(t)); got != "Bearer second" {
		t.Errorf("authorization %q", got)
	}
}

func TestTLSThatFails(t *testing.T) {
	a := newAuthority(t)
	ca, cert, key := a.files("node1")
	otherCA, _, _ := newAuthority(t).files("other")
	cp := a.listenTLS("istiod.test")
	for name, tc := range map[string]struct {
		tls  TLS
		want string
	}{
		"another authority": {TLS{CAFile: otherCA, CertFile: cert, KeyFile: key, ServerName: "istiod.test"}, "unknown authority"},
		"another name":      {TLS{CAFile: ca, CertFile: cert, KeyFile: key, ServerName: "other.test"}, "other.test"},
		"no certificate":    {TLS{CAFile: ca, ServerName: "istiod.test"}, ""}, // the server says so, in its own words
		"no such file":      {TLS{CAFile: "/nowhere/ca.pem"}, "/nowhere/ca.pem"},
		"not a certificate": {TLS{CAFile: key, ServerName: "istiod.test"}, "PEM"},
	} {
		t.Run(name, func(t *testing.T) {
			src, inputs := start(t, Options{Address: cp.addr, Namespace: "ns1", Node: node1, TLS: &tc.tls}, nil)
			end := time.After(patient)
			for {
				if st := src.Streams(); len(st) == 1 && st[0].Error != "" {
					if !strings.Contains(st[0].Error, tc.want) || !st[0].Connected.IsZero() {
						t.Errorf("%+v, want an error with %q", st[0], tc.want)
					}
					break
				}
				select {
				case <-time.After(time.Millisecond):
				case <-end:
					t.Fatal("no error")
				}
			}
			if len(inputs) > 0 {
				t.Error("there was an input")
			}
		})
	}
}

// A certificate or token that is not there yet is read when it is.
func TestFilesThatComeLate(t *testing.T) {
	a := newAuthority(t)
	ca, cert, key := a.files("node1")
	late := filepath.Join(t.TempDir(), "late.pem")
	cp := a.listenTLS("istiod.test")
	src, _ := start(t, Options{
		Address: cp.addr, Namespace: "ns1", Node: node1,
		TLS: &TLS{CAFile: late, CertFile: cert, KeyFile: key, ServerName: "istiod.test"},
	}, nil)
	for len(src.Streams()) == 0 || src.Streams()[0].Error == "" {
		await(t, time.After(time.Millisecond), "tick")
	}
	text, err := os.ReadFile(ca)
	if err == nil {
		err = os.WriteFile(late, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	cp.accept(t)
}
