{{- /* Of each platform: the runtime's folder of plugins, and its folder of networks. */ -}}
{{- define "nodens.binDir" -}}
{{- if .Values.binDir -}}{{ .Values.binDir }}
{{- else if eq .Values.platform "kubernetes" -}}/opt/cni/bin
{{- else if eq .Values.platform "gke" -}}/home/kubernetes/bin
{{- else if eq .Values.platform "k3s" -}}/var/lib/rancher/k3s/data/cni
{{- else if eq .Values.platform "microk8s" -}}/var/snap/microk8s/current/opt/cni/bin
{{- else if eq .Values.platform "openshift" -}}/var/lib/cni/bin
{{- else -}}{{ fail "platform is none of kubernetes, gke, k3s, microk8s, openshift: set binDir and netDir" }}
{{- end -}}
{{- end -}}
{{- define "nodens.netDir" -}}
{{- if .Values.netDir -}}{{ .Values.netDir }}
{{- else if eq .Values.platform "k3s" -}}/var/lib/rancher/k3s/agent/etc/cni/net.d
{{- else if eq .Values.platform "microk8s" -}}/var/snap/microk8s/current/args/cni-network
{{- else if eq .Values.platform "openshift" -}}/etc/kubernetes/cni/net.d
{{- else -}}/etc/cni/net.d
{{- end -}}
{{- end -}}
