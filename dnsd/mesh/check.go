package mesh

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// hostName returns name as a plan spells it, lower case and without the final dot, or says why it
// cannot be a host: "*." may stand first, the rest must be a DNS name.
func hostName(name string) (string, error) {
	rest, wild := strings.CutPrefix(name, "*.")
	rest, err := dnsName(rest)
	if err != nil {
		return "", err
	}
	if wild {
		return "*." + rest, nil
	}
	return rest, nil
}

// dnsName returns name in lower case without the final dot, or says why nobody can be asked for it.
// Lengths are those of RFC 1035, section 2.3.4; beyond letters, digits and hyphens the underscore is
// allowed, as real names have it.
func dnsName(name string) (string, error) {
	name = strings.TrimSuffix(name, ".")
	switch {
	case name == "":
		return "", errors.New("an empty name")
	case len(name) > 253:
		return "", fmt.Errorf("a name of %d bytes, more than the 253 DNS allows", len(name))
	}
	label := 0
	for i := range len(name) {
		switch b := name[i]; {
		case b == '.' && label == 0:
			return "", fmt.Errorf("%q has an empty label", name)
		case b == '.':
			label = 0
		case b >= 'a' && b <= 'z', b >= 'A' && b <= 'Z', b >= '0' && b <= '9', b == '-', b == '_':
			if label++; label > 63 {
				return "", fmt.Errorf("%q has a label of more than 63 bytes", name)
			}
		case b >= 0x80:
			return "", fmt.Errorf("%q is not ASCII: write it in its xn-- form", name)
		default:
			return "", fmt.Errorf("%q has the character %q, which no host name has", name, b)
		}
	}
	if label == 0 {
		return "", fmt.Errorf("%q ends in an empty label", name)
	}
	if _, ok := literal(name); ok {
		return "", fmt.Errorf("%q is an address, not a name", name)
	}
	return strings.ToLower(name), nil
}

// literal reads s as an address. Most of what it is asked about are names, which it tells apart
// without making an error of each.
func literal(s string) (netip.Addr, bool) {
	if s == "" || (!strings.Contains(s, ":") && (s[len(s)-1] < '0' || s[len(s)-1] > '9')) {
		return netip.Addr{}, false
	}
	addr, err := netip.ParseAddr(s)
	return addr.Unmap(), err == nil
}

// checkAddress says why addr cannot be the address of a host, or nil. Loopback is refused because it
// would capture what a pod says to itself.
func checkAddress(addr netip.Addr) error {
	switch {
	case !addr.IsValid():
		return errors.New("an address that is none")
	case addr.Zone() != "":
		return fmt.Errorf("address %s has a zone, which means nothing to another node", addr)
	case addr.IsUnspecified(), addr.IsLoopback(), addr.IsMulticast(), addr == broadcast:
		return fmt.Errorf("address %s cannot belong to a host", addr)
	}
	return nil
}

func (p Protocol) String() string {
	switch p {
	case AnyProtocol:
		return "any"
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}
