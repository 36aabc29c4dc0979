package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// sockets are where runtimes answer kubelet. Of what they say, containerd's word on its networks is used;
// others give none, and then the files are all there is to go by.
var sockets = []string{
	"/run/containerd/containerd.sock", "/run/k3s/containerd/containerd.sock", "/var/snap/microk8s/common/run/containerd.sock",
}

// loaded is what containerd has loaded, as it says itself.
type loaded struct {
	socket, version string
	beside          bool // another runtime, which may be kubelet's
	PluginDirs      []string
	PluginConfDir   string
	Networks        []struct {
		Config struct {
			Name    string
			Plugins []struct {
				Network struct {
					Type string `json:"type"`
				}
			}
		}
	}
}

// has counts nodens in a network as it is loaded.
func (l *loaded) has(network string) (n int) {
	for _, net := range l.Networks {
		if net.Config.Name != network {
			continue
		}
		for _, p := range net.Config.Plugins {
			if p.Network.Type == pluginType {
				n++
			}
		}
	}
	return n
}

// crio is where CRI-O answers kubelet. It says nothing of its networks.
const crio = "/run/crio/crio.sock"

// listens says whether somebody does at a socket.
func listens(socket string) bool {
	conn, err := net.DialTimeout("unix", socket, time.Second)
	if err == nil {
		_ = conn.Close()
	}
	return err == nil
}

// readsDropIns says whether networks' drop-in folders may be read by all that read the networks: with libcni 1.3,
// so by containerd from 2.1 on; of another runtime beside it nobody knows.
func (l *loaded) readsDropIns() bool {
	if l.beside {
		return false
	}
	var major, minor int
	_, err := fmt.Sscanf(strings.TrimPrefix(l.version, "v"), "%d.%d", &major, &minor)
	return err == nil && (major > 2 || major == 2 && minor >= 1)
}

// errNotAsked means that there is no runtime here that says what it has loaded.
var errNotAsked = errors.New("no containerd answers at " + strings.Join(sockets, ", ") + " (--runtime-socket)")

// askRuntime asks the runtimes at the sockets, a second each, for what they have loaded, and returns the
// word of the one that reads dir, else of any.
func askRuntime(ctx context.Context, sockets []string, dir string) (*loaded, error) {
	var any *loaded
	for _, socket := range sockets {
		l, err := askSocket(ctx, socket)
		if err != nil {
			continue // not there, not up yet, or no containerd with networks of its own
		}
		if samePath(l.PluginConfDir, dir) {
			return l, nil
		}
		any = l
	}
	if any == nil {
		return nil, errNotAsked
	}
	return any, nil
}

func askSocket(ctx context.Context, socket string) (*loaded, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	verbose := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 1)
	status, err := call(ctx, socket, "Status", verbose)
	if err != nil {
		return nil, err
	}
	version, err := call(ctx, socket, "Version", nil)
	if err != nil {
		return nil, err
	}
	l := &loaded{socket: socket}
	for _, v := range fields(version, 3) { // VersionResponse.runtime_version
		l.version = string(v)
	}
	for _, entry := range fields(status, 2) { // StatusResponse.info, a map
		for _, key := range fields(entry, 1) {
			if string(key) != "cniconfig" {
				continue
			}
			for _, value := range fields(entry, 2) {
				if err := json.Unmarshal(value, l); err != nil {
					return nil, fmt.Errorf("what %s has loaded: %w", socket, err)
				}
			}
		}
	}
	if l.PluginConfDir == "" {
		return nil, fmt.Errorf("%s does not say what it has loaded", socket)
	}
	return l, nil
}

// call asks one thing of a runtime (CRI v1). For two questions gRPC's library is too much: a request is an
// HTTP/2 one with five bytes before the message, and so is the answer.
func call(ctx context.Context, socket, method string, message []byte) ([]byte, error) {
	const header, most = 5, 16 << 20
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: &protocols, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	body := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))) //nolint:gosec // two bytes at most
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://runtime/runtime.v1.RuntimeService/"+method, bytes.NewReader(append(body, message...)))
	if err != nil {
		return nil, fmt.Errorf("ask the runtime: %w", err)
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("TE", "trailers")
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("ask the runtime: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, most))
	if err != nil {
		return nil, fmt.Errorf("read the runtime's answer: %w", err)
	}
	if code := resp.Trailer.Get("Grpc-Status"); code != "0" || len(answer) < header || answer[0] != 0 {
		return nil, fmt.Errorf("the runtime at %s does not answer %s: HTTP %d, gRPC %q %s", socket, method, resp.StatusCode, code, resp.Trailer.Get("Grpc-Message"))
	}
	return answer[header:], nil
}

// fields returns a message's fields of one number, those that are bytes or messages; none of what is not one.
func fields(message []byte, number protowire.Number) (found [][]byte) {
	for len(message) > 0 {
		num, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return nil
		}
		message = message[n:]
		value := protowire.ConsumeFieldValue(num, kind, message)
		if value < 0 {
			return nil
		}
		if num == number && kind == protowire.BytesType {
			bytes, _ := protowire.ConsumeBytes(message)
			found = append(found, bytes)
		}
		message = message[value:]
	}
	return found
}

// agrees says whether the runtime looks where the installation goes.
func (l *loaded) agrees(netDir, binDir string) error {
	if !samePath(l.PluginConfDir, netDir) {
		return fmt.Errorf("containerd at %s reads its networks from %s and not from %s: set --net-dir=%s, or --runtime-socket if it is another's",
			l.socket, l.PluginConfDir, netDir, l.PluginConfDir)
	}
	if !slices.ContainsFunc(l.PluginDirs, func(dir string) bool { return samePath(dir, binDir) }) {
		return fmt.Errorf("containerd at %s runs plugins from %s and not from %s, where it would not find this one, and make no pods: set --bin-dir",
			l.socket, strings.Join(l.PluginDirs, ", "), binDir)
	}
	return nil
}

// samePath says whether two paths are of one folder, also through links.
func samePath(a, b string) bool {
	return resolved(a) == resolved(b)
}

func resolved(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	return filepath.Clean(path)
}
