package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
)

// machine is where a run took place.
type machine struct {
	cpu, kernel, system, commit string
	cores                       int
	memory                      int64 // bytes
}

func thisMachine() machine {
	m := machine{cores: runtime.NumCPU(), memory: kilobytes("/proc/meminfo", "MemTotal:") << 10, cpu: "unknown", system: "Linux"}
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
		m.commit = strings.TrimSpace(string(commit))
	}
	return m
}

func (m machine) String() string {
	return fmt.Sprintf("%s, %d cores, %d GiB, %s, Linux %s", m.cpu, m.cores, (m.memory+1<<29)>>30, m.system, m.kernel)
}
