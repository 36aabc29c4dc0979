package process

import (
	"net"
	"os"
	"strings"
)

// Notify tells systemd something about this service, sd_notify(3). Nobody else listens.
func Notify(lines ...string) {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return
	}
	conn, err := net.Dial("unixgram", socket) // with "@" for an abstract one, as systemd writes it
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	_, _ = conn.Write([]byte(strings.Join(lines, "\n")))
}
