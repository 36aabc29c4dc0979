package admin

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"
)

// PrintQuery writes one line: when, the pod, how and from which port it asked whom for what, what it got,
// how long that took, and where the answer came from.
func PrintQuery(w io.Writer, q Query) error {
	lost := ""
	if q.Lost > 0 {
		lost = fmt.Sprintf("... %d more came too fast to be shown\n", q.Lost)
	}
	origin := q.Source
	if q.Server != "" {
		origin += " " + q.Server
	}
	if q.Object != "" {
		origin += " (" + q.Object + ")"
	}
	_, err := fmt.Fprintf(w, "%s%s %s %s/%s %s %s %s %s %s %s\n", lost,
		q.Time.UTC().Format("2006-01-02T15:04:05.000000Z"), q.Pod, q.Network, portOf(q.Client), strings.TrimSuffix(q.Nameserver, ":53"),
		dash(q.Name), dash(q.Type), q.Rcode, cmp.Or(q.Took.Round(time.Microsecond), q.Took), origin)
	return err
}

// portOf is the port of address:port.
func portOf(addrPort string) string { return addrPort[strings.LastIndexByte(addrPort, ':')+1:] }
