package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// enroller has pods noted that were made before nodens was in their network's list, so that they are
// captured without a restart.
//
// What libcni keeps of every attachment is all an ADD was made of: the namespace, the addresses, the pod's
// name, nameservers and annotations. So the plugin's own ADD is done once more, now that it is in the
// list, with the result of the others. No runtime is asked, and there is none whose socket must be
// reachable; and a pod whose annotations opt it out is known to. DEL comes from the runtime: it goes by the
// list that is there then.
type enroller struct {
	cache  string // where libcni keeps it
	plugin string // the file to run
	log    *slog.Logger
	seen   map[string]string // by file in cache: what came of it, empty for well
}

const (
	pluginPatience = 10 * time.Second // of which the plugin takes two at most
	codeNotNoted   = 101              // the plugin's, for CHECK
)

// kept is libcni's file of one attachment, kind cniCacheV1.
type kept struct {
	Kind           string                     `json:"kind"`
	ContainerID    string                     `json:"containerId"`
	Config         string                     `json:"config"` // the list, in base64
	IfName         string                     `json:"ifName"`
	NetworkName    string                     `json:"networkName"`
	NetNS          string                     `json:"netns"` // libcni 1.2 and newer
	CNIArgs        [][2]string                `json:"cniArgs"`
	CapabilityArgs map[string]json.RawMessage `json:"capabilityArgs"`
	Result         json.RawMessage            `json:"result"`
}

// readKept reads a file of libcni's; ok is false for anything else.
func readKept(data []byte) (k kept, ok bool) {
	return k, json.Unmarshal(data, &k) == nil && k.Kind == "cniCacheV1"
}

// list is what the runtime's list was when the attachment was made.
func (k kept) list() (*list, error) {
	config, err := base64.StdEncoding.DecodeString(k.Config)
	if err != nil {
		return nil, fmt.Errorf("read the list of %s: %w", k.ContainerID, err)
	}
	return parseList(config)
}

// netns is the path of the pod's network namespace. Older libraries keep it in the result only.
func (k kept) netns() string {
	var result struct {
		Interfaces []struct{ Name, Sandbox string }
	}
	if k.NetNS != "" || json.Unmarshal(k.Result, &result) != nil {
		return k.NetNS
	}
	for _, i := range result.Interfaces {
		if i.Name == k.IfName && i.Sandbox != "" {
			return i.Sandbox
		}
	}
	return ""
}

// alive says whether the pod is there: libcni's files, of which this one was written then, outlive a
// reboot, and a DEL that was lost.
func (k kept) alive(written time.Time) bool {
	path := k.netns()
	if path == "" {
		return false
	}
	if process, ok := strings.CutSuffix(path, "/ns/net"); ok && strings.HasPrefix(path, "/proc/") {
		// Numbers of processes are given again. One that began after the pod was made is not the pod's.
		began, err := startTime(process)
		return err == nil && began.Before(written.Add(time.Second))
	}
	_, err := os.Stat(path)
	return err == nil
}

// ran says whether the runtime has run the plugin: libcni keeps what all plugins of a list have made.
func (e *enroller) ran() bool {
	names, _ := os.ReadDir(e.cache) // without it nobody knows
	for _, name := range names {
		f, err := node{}.Read(filepath.Join(e.cache, name.Name()))
		if k, ok := readKept(f.data); err != nil || !ok {
			continue
		} else if l, err := k.list(); err == nil && len(l.ours) > 0 {
			return true
		}
	}
	return false
}

// run has every pod of the network noted that is not, and returns what could not be. What is said once is
// not said again for the same pod.
func (e *enroller) run(ctx context.Context, network string, entry []byte) error {
	names, err := os.ReadDir(e.cache)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read what the runtime keeps of its sandboxes: %w", err)
	}
	var errs []error
	seen := map[string]string{}
	for _, name := range names {
		path := filepath.Join(e.cache, name.Name())
		f, err := node{}.Read(path)
		k, ok := readKept(f.data)
		if err != nil || !ok || k.NetworkName != network || !k.alive(f.written) || ctx.Err() != nil {
			continue
		}
		was, known := e.seen[path]
		if known && was == "" {
			seen[path] = ""
			continue
		}
		err = e.enrol(ctx, path, k, entry)
		if err == nil {
			seen[path] = ""
			continue
		}
		seen[path] = err.Error()
		errs = append(errs, err)
		if was != err.Error() {
			e.log.Warn("a pod from before nodens is not enrolled; trying again", "container", k.ContainerID, "error", err)
		}
	}
	e.seen = seen
	return errors.Join(errs...)
}

// enrol does the plugin's ADD, unless the pod is noted.
func (e *enroller) enrol(ctx context.Context, path string, k kept, entry []byte) error {
	conf, err := k.configuration(entry)
	if err != nil {
		return err
	}
	switch code, err := e.call(ctx, "CHECK", k, conf); {
	case code == codeNotNoted:
	case code != 0:
		return nil // something else is amiss with it, but it is noted
	case err != nil:
		return err
	default:
		return nil
	}
	if _, err := e.call(ctx, "ADD", k, conf); err != nil {
		return err
	}
	e.log.Info("a pod from before nodens is enrolled", "container", k.ContainerID, "netns", k.netns())
	// The runtime may have taken it down meanwhile; its DEL then had nothing to remove.
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		_, err := e.call(ctx, "DEL", k, conf)
		return err
	}
	return nil
}

// configuration is what a runtime would pass on the plugin's standard input.
func (k kept) configuration(entry []byte) ([]byte, error) {
	var conf map[string]json.RawMessage
	if err := json.Unmarshal(entry, &conf); err != nil {
		return nil, fmt.Errorf("the plugin's entry: %w", err)
	}
	var capable map[string]bool
	if conf["capabilities"] != nil {
		if err := json.Unmarshal(conf["capabilities"], &capable); err != nil {
			return nil, fmt.Errorf("the plugin's entry: %w", err)
		}
	}
	args := maps.Clone(k.CapabilityArgs)
	maps.DeleteFunc(args, func(name string, _ json.RawMessage) bool { return !capable[name] })
	for key, value := range map[string]any{
		// Of the list's version no CHECK might be known; the result is the same in all since 0.3.
		"cniVersion": "1.0.0", "name": k.NetworkName, "runtimeConfig": args, "prevResult": k.Result,
	} {
		text, err := json.Marshal(value)
		if err != nil {
			return nil, fmt.Errorf("%s of %s: %w", key, k.ContainerID, err)
		}
		conf[key] = text
	}
	return json.Marshal(conf)
}

// call runs the plugin as a runtime does. With an error comes the code the plugin gave, if it gave one.
func (e *enroller) call(ctx context.Context, command string, k kept, conf []byte) (code int, err error) {
	ctx, cancel := context.WithTimeout(ctx, pluginPatience)
	defer cancel()
	var args []string
	for _, pair := range k.CNIArgs {
		args = append(args, pair[0]+"="+pair[1])
	}
	cmd := exec.CommandContext(ctx, e.plugin)
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+command, "CNI_CONTAINERID="+k.ContainerID, "CNI_NETNS="+k.netns(),
		"CNI_IFNAME="+k.IfName, "CNI_ARGS="+strings.Join(args, ";"), "CNI_PATH="+filepath.Dir(e.plugin))
	cmd.Stdin = bytes.NewReader(conf)
	out, err := cmd.Output()
	if err == nil {
		return 0, nil
	}
	var said struct {
		Code         int
		Msg, Details string
	}
	if json.Unmarshal(out, &said) == nil && said.Code != 0 {
		return said.Code, fmt.Errorf("%s of the plugin: %s; %s", command, said.Msg, said.Details)
	}
	return 0, fmt.Errorf("%s of the plugin: %w", command, err)
}
