package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

func TestMain(m *testing.M) {
	if os.Getenv("BE_STUB") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// invoke runs the stub as a runtime does and returns what it wrote to standard output.
func invoke(t *testing.T, command, stdin string) (string, error) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = []string{"BE_STUB=1", "CNI_COMMAND=" + command, "CNI_CONTAINERID=c1", "CNI_NETNS=", "CNI_IFNAME=eth0", "CNI_PATH=/opt/cni/bin"}
	cmd.Stdin = strings.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if stderr.Len() > 0 {
		t.Errorf("%s wrote to stderr: %s", command, &stderr)
	}
	return string(out), err
}

// TestPasses: nothing that a runtime does with a pod may fail because nodens is being taken off, whatever
// the list says and whether or not the pod's namespace is still there.
func TestPasses(t *testing.T) {
	const result = `{"cniVersion":"1.0.0","ips":[{"address":"10.1.0.5/16"}],"big":9007199254740993,"x":"<&>"}`
	const conf = `{"cniVersion":"1.0.0","name":"pods","type":"nodens","unknown":{"a":1},"prevResult":` + result + `}`
	for _, test := range []struct{ name, command, stdin, want string }{
		{"the result is passed on, byte for byte", "ADD", conf, result},
		{"a result without a version gets the list's", "ADD",
			`{"cniVersion":"0.4.0","name":"pods","prevResult":{"ips":[]}}`, `{"cniVersion":"0.4.0","ips":[]}`},
		{"DEL", "DEL", conf, ""},
		{"DEL without a result", "DEL", `{"cniVersion":"0.3.1","name":"pods"}`, ""},
		{"DEL with nothing to read", "DEL", "", ""},
		{"CHECK", "CHECK", conf, ""},
		{"GC", "GC", `{"cniVersion":"1.1.0","name":"pods","cni.dev/valid-attachments":[]}`, ""},
		{"STATUS", "STATUS", `{"cniVersion":"1.1.0","name":"pods"}`, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			if out, err := invoke(t, test.command, test.stdin); err != nil || out != test.want {
				t.Errorf("%q, %v; want %q", out, err, test.want)
			}
		})
	}
}

func TestVersions(t *testing.T) {
	out, err := invoke(t, "VERSION", `{"cniVersion":"1.1.0"}`)
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		CNIVersion        string   `json:"cniVersion"`
		SupportedVersions []string `json:"supportedVersions"`
	}
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatal(err)
	}
	if have := strings.Join(v.SupportedVersions, " "); v.CNIVersion == "" || have != "0.3.0 0.3.1 0.4.0 1.0.0 1.1.0" {
		t.Errorf("%+v", v)
	}
}

// TestNoResult: without a plugin before it there is no interface, and the runtime is told so in the
// specification's words.
func TestNoResult(t *testing.T) {
	for code, stdin := range map[int]string{7: `{"cniVersion":"1.0.0","name":"pods"}`, 6: "{"} {
		t.Run(strconv.Itoa(code), func(t *testing.T) {
			out, err := invoke(t, "ADD", stdin)
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 1 {
				t.Fatalf("%v; want status 1", err)
			}
			var told struct {
				Code    int    `json:"code"`
				Msg     string `json:"msg"`
				Details string `json:"details"`
			}
			if err := json.Unmarshal([]byte(out), &told); err != nil || told.Code != code || told.Msg == "" || told.Details == "" {
				t.Errorf("%q (%v)", out, err)
			}
		})
	}
}
