package world

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// ADSName is whom the control plane's certificate is of.
const ADSName = "istiod.test"

// Manner is how a control plane deals with its clients.
type Manner struct {
	// CAFile, when set, has it speak TLS: what its certificate is to be checked against is written there.
	CAFile string
	// Token, when set, is the bearer token it wants.
	Token string
	// OnlySotw has it know no delta.
	OnlySotw bool
}

// StartAs begins to listen in a manner, which later starts keep.
func (c *ControlPlane) StartAs(m Manner) error {
	c.mu.Lock()
	c.manner = m
	c.mu.Unlock()
	return c.Start()
}

func (m Manner) options() ([]grpc.ServerOption, error) {
	var o []grpc.ServerOption
	if m.CAFile != "" {
		cert, err := selfSigned(m.CAFile)
		if err != nil {
			return nil, fmt.Errorf("control plane's certificate: %w", err)
		}
		o = append(o, grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{cert}})))
	}
	if m.Token != "" {
		o = append(o, grpc.StreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			if err := m.authenticate(ss.Context()); err != nil {
				return err
			}
			return next(srv, ss)
		}))
	}
	return o, nil
}

func (m Manner) authenticate(ctx context.Context) error {
	md, _ := metadata.FromIncomingContext(ctx)
	if got := strings.Join(md.Get("authorization"), ","); got != "Bearer "+m.Token {
		return status.Errorf(codes.Unauthenticated, "not the token: %q", got)
	}
	return nil
}

// selfSigned makes a certificate for ADSName and writes it to file.
func selfSigned(file string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: []string{ADSName},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, os.WriteFile(file, text, 0o644)
}
