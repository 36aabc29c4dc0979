// Command stub takes the place of the CNI plugin while nodens is being uninstalled: it does nothing and
// lets everything pass, so that pods made with a list that names the plugin can still be taken down.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

func main() {
	if err := pass(os.Getenv("CNI_COMMAND"), os.Stdin, os.Stdout); err != nil {
		code := 6 // the specification's: content that cannot be decoded
		if errors.Is(err, errNoResult) {
			code = 7 // an invalid configuration
		}
		_ = json.NewEncoder(os.Stdout).Encode(map[string]any{
			"cniVersion": "1.0.0", "code": code, "msg": err.Error(), "details": "nodens is being uninstalled from this node",
		})
		os.Exit(1)
	}
}

var errNoResult = errors.New("no prevResult: the plugin must follow one that makes the interface")

// pass answers as the last plugin of a chain that changes nothing: ADD has the result of the plugins
// before it, byte for byte but for a version where it has none.
func pass(command string, in io.Reader, out io.Writer) error {
	switch command {
	case "VERSION":
		_, err := io.WriteString(out, `{"cniVersion":"1.1.0","supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}`+"\n")
		return err
	case "ADD":
	default:
		return nil
	}
	var conf struct {
		CNIVersion string          `json:"cniVersion"`
		PrevResult json.RawMessage `json:"prevResult"`
	}
	if err := json.NewDecoder(in).Decode(&conf); err != nil {
		return fmt.Errorf("read the network configuration: %w", err)
	}
	if len(conf.PrevResult) == 0 {
		return errNoResult
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(conf.PrevResult, &fields); err != nil {
		return fmt.Errorf("read prevResult: %w", err)
	}
	if _, ok := fields["cniVersion"]; !ok {
		version, _ := json.Marshal(conf.CNIVersion) // a string always marshals
		fields["cniVersion"] = version
		whole, err := json.Marshal(fields)
		if err != nil {
			return fmt.Errorf("write the result: %w", err)
		}
		conf.PrevResult = whole
	}
	_, err := out.Write(conf.PrevResult)
	return err
}
