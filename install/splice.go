package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
)

// pluginType is how a network's list names the plugin, and the plugin's file in the runtime's folder.
const pluginType = "nodens"

// list is a network configuration list as bytes, and where its plugins are in them. Nothing of it is
// ever written anew: numbers too large for a float, key order, spacing and unknown keys stay as they are.
type list struct {
	data    []byte
	name    string
	open    int    // just after the bracket that begins plugins
	plugins []span // of each plugin
	ours    []int  // which of plugins are nodens, each but the first a mistake of somebody's
	inlined bool   // loadOnlyInlinedPlugins: drop-in folders are not read
}

type span struct{ start, end int }

// parseList reads a .conflist. A list without plugins is an error: a runtime refuses it too.
func parseList(data []byte) (*list, error) {
	var head struct {
		Name                   string            `json:"name"`
		Plugins                []json.RawMessage `json:"plugins"`
		LoadOnlyInlinedPlugins bool              `json:"loadOnlyInlinedPlugins"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return nil, fmt.Errorf("not a network configuration list: %w", err)
	}
	if head.Name == "" || len(head.Plugins) == 0 {
		return nil, errors.New("not a network configuration list: it needs a name and plugins")
	}
	l := &list{data: data, name: head.Name, inlined: head.LoadOnlyInlinedPlugins}
	if err := l.locate(); err != nil {
		return nil, err
	}
	for i, p := range l.plugins {
		if typeOf(data[p.start:p.end]) == pluginType {
			l.ours = append(l.ours, i)
		}
	}
	return l, nil
}

// locate finds the plugins in the bytes, which are known to be valid JSON.
func (l *list) locate() error {
	dec := json.NewDecoder(bytes.NewReader(l.data))
	if _, err := dec.Token(); err != nil { // the opening brace
		return fmt.Errorf("read list: %w", err)
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return fmt.Errorf("read list: %w", err)
		}
		if key != "plugins" {
			var skipped json.RawMessage
			if err := dec.Decode(&skipped); err != nil {
				return fmt.Errorf("read list: %w", err)
			}
			continue
		}
		if l.plugins != nil {
			return errors.New("plugins is there twice; leave one")
		}
		if _, err := dec.Token(); err != nil { // the opening bracket
			return fmt.Errorf("read list: %w", err)
		}
		l.open = int(dec.InputOffset())
		for dec.More() {
			var plugin json.RawMessage
			if err := dec.Decode(&plugin); err != nil {
				return fmt.Errorf("read list: %w", err)
			}
			end := int(dec.InputOffset())
			l.plugins = append(l.plugins, span{end - len(plugin), end})
		}
		if _, err := dec.Token(); err != nil && !errors.Is(err, io.EOF) { // the closing bracket
			return fmt.Errorf("read list: %w", err)
		}
	}
	if l.plugins == nil {
		return errors.New(`the list's key is not spelled "plugins"; write it in lower case`)
	}
	return nil
}

func typeOf(plugin []byte) string {
	var p struct {
		Type string `json:"type"`
	}
	_ = json.Unmarshal(plugin, &p) // what is no plugin has no type
	return p.Type
}

// with returns the list with entry in it exactly once: where nodens is already, else last, since it
// must come after the plugin that makes the interface. It returns the same bytes if there is nothing
// to change, however the entry is spelled.
func (l *list) with(entry []byte) []byte {
	if len(l.ours) == 0 {
		last := l.plugins[len(l.plugins)-1].end
		return slices.Concat(l.data[:last], []byte(","), l.gap(), entry, l.data[last:])
	}
	first := l.plugins[l.ours[0]]
	if len(l.ours) == 1 && sameJSON(l.data[first.start:first.end], entry) {
		return l.data
	}
	return l.rebuilt(func(i int) []byte {
		switch {
		case i == l.ours[0]:
			return entry
		case slices.Contains(l.ours, i):
			return nil
		}
		return l.plugin(i)
	})
}

// without returns the list without nodens. A list that holds nothing else is an error: it could not be
// loaded without it.
func (l *list) without() ([]byte, error) {
	if len(l.ours) == len(l.plugins) {
		return nil, errors.New("the list holds nothing but nodens; remove the file, or restore the network's own plugins")
	}
	return l.rebuilt(func(i int) []byte {
		if slices.Contains(l.ours, i) {
			return nil
		}
		return l.plugin(i)
	}), nil
}

func (l *list) plugin(i int) []byte { return l.data[l.plugins[i].start:l.plugins[i].end] }

// rebuilt returns the list with each plugin as become says, nil for left out with the comma and white
// space before it; the first one's go with the first that is left.
func (l *list) rebuilt(become func(i int) []byte) []byte {
	out := slices.Clone(l.data[:l.plugins[0].start])
	empty := true
	for i := range l.plugins {
		plugin := become(i)
		if plugin == nil {
			continue
		}
		if !empty {
			out = append(out, l.data[l.plugins[i-1].end:l.plugins[i].start]...)
		}
		out = append(out, plugin...)
		empty = false
	}
	return append(out, l.data[l.plugins[len(l.plugins)-1].end:]...)
}

// gap is the white space before the last plugin, for one more to look like its neighbours.
func (l *list) gap() []byte {
	last := len(l.plugins) - 1
	from := l.open
	if last > 0 {
		from = l.plugins[last-1].end
	}
	return bytes.TrimLeft(l.data[from:l.plugins[last].start], ",")
}

func sameJSON(a, b []byte) bool {
	return reflect.DeepEqual(plain(a), plain(b))
}

// plain is JSON without its spelling; numbers keep every digit.
func plain(data []byte) any {
	var v any
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if dec.Decode(&v) != nil {
		return nil
	}
	return v
}

// wrap makes a list of a single plugin's configuration (a .conf file), which becomes its first plugin
// byte for byte. Name and version are the plugin's own.
func wrap(conf []byte) ([]byte, error) {
	var head struct {
		CNIVersion json.RawMessage `json:"cniVersion"`
		Name       json.RawMessage `json:"name"`
		Type       string          `json:"type"`
	}
	if err := json.Unmarshal(conf, &head); err != nil {
		return nil, fmt.Errorf("not a network configuration: %w", err)
	}
	if head.Type == "" || len(head.Name) == 0 {
		return nil, errors.New("not a network configuration: it needs a name and a type")
	}
	if head.Type == pluginType {
		return nil, errors.New("nodens alone makes no network; it must follow a plugin that makes the interface")
	}
	var b bytes.Buffer
	b.WriteString("{\n")
	if len(head.CNIVersion) > 0 {
		fmt.Fprintf(&b, "  \"cniVersion\": %s,\n", head.CNIVersion)
	}
	fmt.Fprintf(&b, "  \"name\": %s,\n  \"plugins\": [\n    %s\n  ]\n}\n", head.Name, bytes.TrimSpace(conf))
	return b.Bytes(), nil
}
