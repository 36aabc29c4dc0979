package istiod

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
	"istio.io/istio/pkg/config/constants"
	"istio.io/istio/pkg/config/mesh/meshwatcher"
	"istio.io/istio/pkg/kube"
	"istio.io/istio/pkg/security"
	"istio.io/istio/pkg/spiffe"
	"istio.io/istio/security/pkg/pki/util"
	"istio.io/istio/security/pkg/server/ca/authenticate"
	"istio.io/istio/security/pkg/server/ca/authenticate/kubeauth"
	authentication "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// ServerName is whom istiod's certificate is of.
const ServerName = "istiod.istio-system.svc"

// serviceAccount is whose tokens and certificates are given out, in every namespace.
const serviceAccount = "nodens"

// trust is the mesh's own authority, and the tokens the API server knows.
type trust struct {
	root, key []byte // PEM

	mu     sync.Mutex
	tokens map[string]string // the namespace each is of
}

func newTrust() (*trust, error) {
	root, key, err := util.GenCertKeyFromOptions(util.CertOptions{
		Org: "cluster.local", IsCA: true, IsSelfSigned: true, TTL: time.Hour, ECSigAlg: util.EcdsaSigAlg,
	})
	return &trust{root: root, key: key, tokens: map[string]string{}}, err
}

// Root is the certificate that istiod's is signed with, in PEM form.
func (i *Istiod) Root() []byte { return i.trust.root }

// Token returns a new token of a namespace's service account, good until Revoke.
func (i *Istiod) Token(namespace string) string {
	i.trust.mu.Lock()
	defer i.trust.mu.Unlock()
	token := rand.Text()
	i.trust.tokens[token] = namespace
	return token
}

// Revoke makes every token so far worthless.
func (i *Istiod) Revoke() {
	i.trust.mu.Lock()
	defer i.trust.mu.Unlock()
	clear(i.trust.tokens)
}

// Certificate returns a certificate of a namespace's service account and its key, in PEM form.
func (i *Istiod) Certificate(namespace string) (cert, key []byte, err error) {
	return i.trust.sign(spiffe.Identity{
		TrustDomain: constants.DefaultClusterLocalDomain, Namespace: namespace, ServiceAccount: serviceAccount,
	}.String())
}

// sign makes a certificate for a host: a name, or a SPIFFE identity.
func (t *trust) sign(host string) (cert, key []byte, err error) {
	signer, err := util.ParsePemEncodedCertificate(t.root)
	if err != nil {
		return nil, nil, err
	}
	private, err := util.ParsePemEncodedKey(t.key)
	if err != nil {
		return nil, nil, err
	}
	return util.GenCertKeyFromOptions(util.CertOptions{
		Host: host, TTL: time.Hour, SignerCert: signer, SignerPriv: private,
		IsServer: true, IsClient: true, ECSigAlg: util.EcdsaSigAlg,
	})
}

// credentials are those of istiod's port 15012: a client may show a certificate, and need not.
func (t *trust) credentials() (credentials.TransportCredentials, error) {
	cert, key, err := t.sign(ServerName)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	verifier := spiffe.NewPeerCertVerifier()
	if err := verifier.AddMappingFromPEM(constants.DefaultClusterLocalDomain, t.root); err != nil {
		return nil, err
	}
	return credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{pair},
		ClientAuth:   tls.VerifyClientCertIfGiven,
		ClientCAs:    verifier.GetGeneralCertPool(),
		VerifyPeerCertificate: func(raw [][]byte, chains [][]*x509.Certificate) error {
			return verifier.VerifyPeerCert(raw, chains)
		},
		MinVersion: tls.VersionTLS12,
	}), nil
}

// authenticators are istiod's: certificates, then tokens, of which it asks the API server.
func (t *trust) authenticators(c kube.Client) []security.Authenticator {
	c.Kube().(*fake.Clientset).PrependReactor("create", "tokenreviews", t.review)
	mesh := meshwatcher.NewTestWatcher(nil)
	return []security.Authenticator{
		&authenticate.ClientCertAuthenticator{},
		kubeauth.NewKubeJWTAuthenticator(mesh, c.Kube(), constants.DefaultClusterName, nil, nil),
	}
}

// review says whose a token is, as an API server does.
func (t *trust) review(action clienttesting.Action) (bool, runtime.Object, error) {
	review := action.(clienttesting.CreateAction).GetObject().(*authentication.TokenReview).DeepCopy()
	t.mu.Lock()
	defer t.mu.Unlock()
	namespace, known := t.tokens[review.Spec.Token]
	if !known {
		review.Status.Error = "the token is not known"
		return true, review, nil
	}
	review.Status = authentication.TokenReviewStatus{Authenticated: true, User: authentication.UserInfo{
		Username: fmt.Sprintf("system:serviceaccount:%s:%s", namespace, serviceAccount),
		Groups:   []string{"system:serviceaccounts"},
	}}
	return true, review, nil
}
