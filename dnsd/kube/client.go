package kube

import (
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

var (
	core      = schema.GroupVersion{Version: "v1"}
	discovery = schema.GroupVersion{Group: "discovery.k8s.io", Version: "v1"}
	multi     = schema.GroupVersion{Group: "multicluster.x-k8s.io", Version: "v1alpha1"}
	istio     = schema.GroupVersion{Group: "networking.istio.io", Version: "v1"}
)

// codecs know the kinds that are watched, and no others: the whole of Kubernetes' own takes ten times the
// memory of all that is kept.
var codecs = serializer.NewCodecFactory(scheme())

func scheme() *runtime.Scheme {
	s := runtime.NewScheme()
	s.AddKnownTypes(core, &corev1.Service{}, &corev1.ServiceList{}, &corev1.Namespace{}, &corev1.NamespaceList{}, &corev1.Node{}, &corev1.NodeList{},
		&corev1.Pod{}, &corev1.PodList{})
	s.AddKnownTypes(discovery, &discoveryv1.EndpointSlice{}, &discoveryv1.EndpointSliceList{})
	for _, kind := range []string{"ServiceEntry", "WorkloadEntry", "DestinationRule"} {
		s.AddKnownTypeWithName(istio.WithKind(kind), &custom{})
		s.AddKnownTypeWithName(istio.WithKind(kind+"List"), &customList{})
	}
	s.AddKnownTypeWithName(multi.WithKind("ServiceImport"), &custom{})
	s.AddKnownTypeWithName(multi.WithKind("ServiceImportList"), &customList{})
	for _, gv := range []schema.GroupVersion{core, discovery, multi, istio} {
		metav1.AddToGroupVersion(s, gv)
	}
	return s
}

// client reads the configuration. Tokens and certificates in files of their own are read again as they change.
func (o *Options) client() (*rest.Config, error) {
	var config *rest.Config
	var err error
	if o.Kubeconfig == "" {
		if config, err = rest.InClusterConfig(); errors.Is(err, rest.ErrNotInCluster) {
			err = errors.New("this is no pod of a cluster; set kube.kubeconfig")
		}
	} else {
		config, err = clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
			&clientcmd.ClientConfigLoadingRules{ExplicitPath: o.Kubeconfig},
			&clientcmd.ConfigOverrides{CurrentContext: o.Context}).ClientConfig()
	}
	if err != nil {
		return nil, fmt.Errorf("configuration of the Kubernetes API: %w", err)
	}
	config.UserAgent = "nodens"
	return config, nil
}

// restClient asks for the resources of one group.
func restClient(config *rest.Config, gv schema.GroupVersion) (*rest.RESTClient, error) {
	c := rest.CopyConfig(config)
	c.GroupVersion, c.APIPath = &gv, "/apis"
	if gv.Group == "" {
		c.APIPath = "/api"
	}
	c.NegotiatedSerializer = codecs.WithoutConversion()
	c.QPS = -1 // a watch is one request; what is asked again waits by itself
	if gv == core || gv == discovery {
		c.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
		c.ContentType = "application/vnd.kubernetes.protobuf"
	}
	return rest.RESTClientFor(c)
}
