// Command parts is a whole Kubernetes in one file: etcd, the control plane, a node's daemons and kubectl,
// each by its name as the first argument.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

func main() {
	if len(os.Args) < 2 {
		usage()
	}
	if os.Args[1] == "etcd" {
		etcdmain.Main(os.Args[1:])
		return
	}
	part, ok := map[string]func() *cobra.Command{
		"apiserver":   apiserver.NewAPIServerCommand,
		"controllers": controllers.NewControllerManagerCommand,
		"scheduler":   func() *cobra.Command { return scheduler.NewSchedulerCommand() },
		"kubelet":     func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) },
		"proxy":       proxy.NewProxyCommand,
		"kubectl":     func() *cobra.Command { return kubectl.NewDefaultKubectlCommand() },
	}[os.Args[1]]
	if !ok {
		usage()
	}
	os.Args = os.Args[1:] // kubectl and the usage texts look there too
	os.Exit(cli.Run(part()))
}

func usage() {
	fmt.Fprintln(os.Stderr, "usage: parts etcd|apiserver|controllers|scheduler|kubelet|proxy|kubectl [FLAG ...]")
	os.Exit(2)
}
