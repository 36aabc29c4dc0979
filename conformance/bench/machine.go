// Package bench is what the comparison benchmarks have in common: the machine a run took place on, the
// Debian packages it needs, and the middle of many figures.
package bench

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
)

// Machine is where a run took place.
type Machine struct {
	cpu, kernel, system string
	// Commit is what was measured, as git describes it.
	Commit string
	cores  int
	memory int64 // bytes
}

// ThisMachine looks at the machine this process runs on.
func ThisMachine() Machine {
	m := Machine{cores: runtime.NumCPU(), memory: memory(), cpu: "unknown", system: "Linux"}
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			m.cpu = strings.TrimSpace(value)
			break
		}
	}
	var u syscall.Utsname
	if syscall.Uname(&u) == nil {
		for _, c := range u.Release {
			if c == 0 {
				break
			}
			m.kernel += string(rune(c))
		}
	}
	text, _ = os.ReadFile("/etc/os-release")
	for line := range strings.Lines(string(text)) {
		if name, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
			m.system = strings.Trim(strings.TrimSpace(name), `"`)
		}
	}
	commit, err := exec.Command("git", "describe", "--always", "--dirty").Output()
	if err == nil {
		m.Commit = strings.TrimSpace(string(commit))
	}
	return m
}

func (m Machine) String() string {
	return fmt.Sprintf("%s, %d cores, %d GiB, %s, Linux %s", m.cpu, m.cores, (m.memory+1<<29)>>30, m.system, m.kernel)
}

// memory is the machine's, in bytes.
func memory() int64 {
	var i syscall.Sysinfo_t
	if syscall.Sysinfo(&i) != nil {
		return 0
	}
	return int64(i.Totalram) * int64(i.Unit)
}
