# The two commands that matter: make demo, make test. Both need root and Go, and install what else they
# need with apt-get on Debian.
SHELL   := /bin/bash
GO      ?= go
BIN     := $(CURDIR)/bin
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)

.PHONY: build
build: ## Build nodens (the CNI plugin), dnsd and nodens-install into bin/, static.
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/nodens ./cni
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/dnsd ./dnsd
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/nodens-install ./install
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o $(BIN)/nodens-stub ./install/stub

IMAGE ?= ghcr.io/nodens-dns/nodens
.PHONY: image
image: $(BIN)/linux-amd64 $(BIN)/linux-arm64 ## The container image, amd64 and arm64, into bin/nodens-image.tar (OCI): the same bytes each time.
	$(GO) run ./install/image -name $(IMAGE):$(VERSION) -out $(BIN)/nodens-image.tar $(BIN)

.PHONY: $(BIN)/linux-amd64 $(BIN)/linux-arm64
$(BIN)/linux-amd64 $(BIN)/linux-arm64: # The version says what a build is of; when and where it was made is left out.
	GOOS=linux GOARCH=$(@:$(BIN)/linux-%=%) GOFLAGS=-buildvcs=false $(MAKE) build BIN=$@

.PHONY: demo
demo: ## Show the whole of it on this machine, line by line. KEEP=1 leaves it up.
	$(GO) run ./conformance/demo

.PHONY: demo-down
demo-down: ## Clear what KEEP=1 make demo left.
	$(GO) run ./conformance/demo -down

.PHONY: test
test: deps ## Unit, kernel and conformance tests, with the race detector.
	$(GO) test -race -timeout 15m ./...

FUZZTIME ?= 60s
.PHONY: fuzz
fuzz: ## All fuzz targets, FUZZTIME (60s) each.
	@set -o pipefail; grep -o '^func Fuzz[A-Za-z]*' dnsd/*/*_test.go install/*_test.go | sed 's/\/[^/]*:func / /' | while read -r dir target; do \
	  echo "$$dir $$target"; $(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) ./$$dir || exit 1; done

.PHONY: cases
cases: ## DNS cases of a JSON file: make cases CASES=path/to/file.json; those of the project without it.
	cd dnsd/serve && CASES='$(abspath $(CASES))' $(GO) test -count 1 -run '^TestCases$$'

.PHONY: xds-dump
xds-dump: ## Names and frontends that a folder of DiscoveryResponses comes to: make xds-dump CASE=path/to/folder.
	@test -d '$(CASE)' || { echo 'say which: make xds-dump CASE=path/to/folder' >&2; exit 2; }
	@out=$$(mktemp) && trap 'rm -f '$$out EXIT && cd dnsd/xds && \
	  CASE='$(abspath $(CASE))' DUMP=$$out $(GO) test -count 1 -run '^TestDump$$' >&2 && cat $$out

.PHONY: conformance
conformance: deps ## Only the promises, as scripts. KERNEL=1: with kernelAnswers in all of them.
	$(GO) test -race -count 1 -timeout 15m -v ./conformance/...

.PHONY: conformance-load
conformance-load: deps ## Ten upgrades and ten kills under load: no query lost, no connection cut (2 min). KERNEL=1: with kernelAnswers.
	RACE=0 $(GO) test -tags load -count 1 -timeout 10m -v -run '^Test(Upgrades|Kills)UnderLoad$$' ./conformance

# Istio's code is a module of its own there (conformance/istiod/go.mod). Cold: 0.5 GB of sources to fetch, about
# 11 minutes of CPU to compile and 2.5 GB of build cache; warm: what the scripts take.
.PHONY: conformance-istiod
conformance-istiod: deps ## dnsd with a real istiod, as scripts (cold 10 min, warm 2). NICE=10 to be gentle.
	cd conformance/istiod && nice -n $(or $(NICE),0) $(GO) vet -mod=mod ./...
	cd conformance/istiod && nice -n $(or $(NICE),0) $(GO) test -mod=mod -count 1 -timeout 30m -v $(if $(RUN),-run '$(RUN)') ./...

# Kubernetes is a module of its own there (conformance/kubernetes/go.mod), and CoreDNS one of nobody's. Cold:
# a quarter of an hour of CPU and 8 GB of build cache; warm: two minutes.
COREDNS := $(HOME)/.cache/nodens-bench/coredns-v1.15.0/coredns
.PHONY: conformance-kube
conformance-kube: deps ## dnsd's answers and CoreDNS's, over one real API server, compared. NICE=10 to be gentle.
	@test -x $(COREDNS) || GOBIN=$(dir $(COREDNS)) CGO_ENABLED=0 nice -n $(or $(NICE),0) $(GO) install github.com/coredns/coredns@v1.15.0
	cd conformance/kubernetes && CGO_ENABLED=0 GOFLAGS=-mod=mod nice -n $(or $(NICE),0) $(GO) build -trimpath -tags providerless \
	  -ldflags '-s -w -X k8s.io/component-base/version.gitVersion=v1.36.3 -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36' \
	  -o $(BIN)/kubernetes-parts ./parts
	$(GO) run ./conformance/answers -coredns $(COREDNS) -parts $(BIN)/kubernetes-parts

# containerd 2 is built from its module, once, for 3 minutes of CPU.
CONTAINERD := $(HOME)/.cache/nodens-bench/containerd-v2.4.2
.PHONY: conformance-runtimes
conformance-runtimes: ## Debian's containerd and containerd 2 (through CRI), podman, systemd-resolved (a minute each).
	@{ command -v containerd && command -v runc && command -v podman && command -v conmon && test -e /usr/lib/cni/loopback; } >/dev/null || \
	  $(call install,containerd runc podman conmon containernetworking-plugins)
	@test -x $(CONTAINERD)/ctr || GOBIN=$(CONTAINERD) CGO_ENABLED=0 nice -n $(or $(NICE),0) $(GO) install -trimpath -ldflags '-s -w' \
	  $(foreach program,containerd containerd-shim-runc-v2 ctr,github.com/containerd/containerd/v2/cmd/$(program)@v2.4.2)
	cd conformance/runtimes && $(GO) vet -mod=mod ./... && \
	  CONTAINERD=$(CONTAINERD) $(GO) test -mod=mod -count 1 -timeout 15m -v $(if $(RUN),-run '$(RUN)') ./...

# An emulated machine is ten times slower than this one.
.PHONY: conformance-kernels
conformance-kernels: deps ## The kernel half and what leans on it most, on Debian's kernels 6.1 and 6.12 in qemu (half an hour).
	@{ command -v qemu-system-x86_64 && command -v busybox && command -v cpio && command -v depmod; } >/dev/null || \
	  $(call install,qemu-system-x86 busybox-static cpio kmod)
	$(GO) vet -tags kernels ./conformance/kernels
	$(GO) test -tags kernels -count 1 -timeout 4h -v $(if $(RUN),-run '$(RUN)') ./conformance/kernels

# CoreDNS is built once, for 4 minutes, into the user's cache folder.
.PHONY: coredns-etcd
coredns-etcd: deps ## The same SkyDNS keys asked of dnsd and of CoreDNS, into conformance/skydns/RESULTS.md (2 min).
	$(GO) run ./conformance/skydns -o conformance/skydns/RESULTS.md

# Kubernetes' code, too, is a module of its own, and Helm's of nobody's. Cold: 14 minutes of CPU to compile, 2.4 GB
# of memory for one package and 8 GB of build cache; warm: four minutes.
HELM := $(HOME)/.cache/nodens-bench/helm-v4.2.4/helm
.PHONY: e2e-kubernetes
e2e-kubernetes: deps ## The image, the manifests and the chart on a real Kubernetes of one node (cold 15 min, warm 4). NICE=10 to be gentle.
	@{ command -v containerd && command -v runc && command -v nft; } >/dev/null || $(call install,containerd runc nftables)
	@test -x $(HELM) || GOBIN=$(dir $(HELM)) CGO_ENABLED=0 nice -n $(or $(NICE),0) $(GO) install -trimpath -ldflags '-s -w' helm.sh/helm/v4/cmd/helm@v4.2.4
	cd conformance/kubernetes && HELM=$(HELM) GOFLAGS=-mod=mod nice -n $(or $(NICE),0) $(GO) test -count 1 -timeout 60m -v $(if $(RUN),-run '$(RUN)') .

.PHONY: bench-dns
bench-dns: deps ## dnsd beside other DNS servers, into conformance/benchdns/RESULTS.md (8 min). QUICK=1: 2 min, only shown; ONLY=memory, ONLY=flood: what 250 pods and a flood cost.
	CGO_ENABLED=1 $(GO) build -o $(BIN)/benchdns ./conformance/benchdns
	$(BIN)/benchdns $(if $(QUICK),-quick) $(if $(ONLY),-$(ONLY))

.PHONY: bench-lb
bench-lb: ## Connecting to services, with nodens and with kube-proxy's rules, into conformance/benchlb/RESULTS.md (3 min). QUICK=1: seconds, only shown.
	$(GO) build -o $(BIN)/benchlb ./conformance/benchlb
	nice -n -15 $(BIN)/benchlb $(if $(QUICK),-quick) # before whatever else the machine does

.PHONY: bench-cni
bench-cni: ## What the plugin adds to the time a pod takes to start (a minute), only shown.
	$(GO) build -o $(BIN)/benchcni ./conformance/benchcni
	$(BIN)/benchcni

.PHONY: generate
generate: clang ## Compile the kernel half again (bpf2go, clang-19).
	$(GO) generate ./ebpf

.PHONY: lint
lint: $(BIN)/golangci-lint ## go vet, staticcheck and the rest of .golangci.yaml.
	$(BIN)/golangci-lint run --allow-parallel-runners ./...

$(BIN)/golangci-lint:
	GOBIN=$(BIN) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

.PHONY: deps
deps: # The race detector wants a C compiler, the clients musl and c-ares, the plugins portmap and firewall nft and
# iptables; the sources are held to a real etcd, and routes to a real nginx.
	@{ command -v gcc && command -v musl-gcc && test -e /usr/include/ares.h; } >/dev/null || \
	  $(call install,gcc libc6-dev musl-tools libc-ares-dev)
	@{ command -v nft && command -v iptables; } >/dev/null || $(call install,nftables iptables)
	@{ command -v etcd && PATH=$$PATH:/usr/sbin command -v nginx; } >/dev/null || $(call install,etcd-server nginx-light)

.PHONY: clang
clang:
	@{ command -v clang-19 && command -v llvm-strip-19 && test -e /usr/include/bpf/bpf_helpers.h; } >/dev/null || \
	  $(call install,clang-19 llvm-19 libbpf-dev linux-libc-dev libc6-dev)

install = { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(1) >/dev/null; }

.PHONY: clean
clean:
	rm -rf $(BIN)
