package serve

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/nodens-dns/nodens/dnsd/mesh"
	"github.com/nodens-dns/nodens/dnsd/names"
)

// dnsCase is one case of a file like testdata/istio-dns.json: what is known, what is asked, and what
// comes back. Expect is what Istio does, NodensExpect what is right where that is known to be wrong.
type dnsCase struct {
	ID     string
	Client struct {
		Namespace, Network, Cluster string
		Search                      []string
		IPs                         []netip.Addr
		DNSCapture                  bool `json:"dns_capture"`
	}
	ClusterDomain        string                `json:"cluster_domain"`
	PreferredNamespace   string                `json:"preferred_namespace"`
	IPv6Enabled          *bool                 `json:"ipv6_enabled"`
	MulticlusterHeadless bool                  `json:"multicluster_headless"`
	NameTable            *map[string]nameInfo  `json:"name_table"`
	Services             []caseService         `json:"services"`
	Workloads            []caseWorkload        `json:"workloads"`
	Upstream             map[string]caseAnswer `json:"upstream"`
	Query                struct {
		Name, Type, Proto string
		EDNS              uint16 `json:"edns_udp_size"`
	}
	Opcode, Qclass string
	Expect         caseExpect
	NodensExpect   *caseExpect `json:"nodens_expect"`
}

// caseAnswer is what the upstream answers for a name.
type caseAnswer struct {
	A, AAAA         []string
	Rcode           string
	RRName          string `json:"rr_name"`
	ServerTruncates bool   `json:"server_truncates"`
}

// caseExpect is an answer; what is absent is not compared.
type caseExpect struct {
	Rcode       *string
	Answers     *[]caseRecord
	AnswerCount *int `json:"answer_count"`
	Forwarded   *bool
	AA, RA, TC  *bool
	OPT         *bool `json:"opt_in_response"`
	TriesNext   bool  `json:"tries_next_server"`
}

type caseRecord struct {
	Name, Type, Data string
	TTL              uint32
}

// TestCases runs the cases of testdata, or of the file that CASES names, and prints how many passed.
func TestCases(t *testing.T) {
	eachFile(t, func(t *testing.T, path string, cases []dnsCase) {
		var failed int
		for i := range cases {
			tc := &cases[i]
			t.Run(tc.ID, func(t *testing.T) {
				if differences := tc.run(t); len(differences) > 0 {
					failed++
					t.Error(strings.Join(differences, "\n"))
				}
			})
		}
		fmt.Printf("%s: %d passed, %d failed\n", path, len(cases)-failed, failed)
	})
}

func eachFile(t *testing.T, run func(t *testing.T, path string, cases []dnsCase)) {
	paths := []string{"testdata/istio-dns.json", "testdata/corners.json"}
	if path := os.Getenv("CASES"); path != "" {
		paths = []string{path}
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var cases []dnsCase
		if err := json.Unmarshal(data, &cases); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if len(cases) == 0 {
			t.Fatalf("%s has no case", path)
		}
		run(t, path, cases)
	}
}

// run asks the case's question of a real server with two real upstreams, and returns how the reply
// differs from what is expected.
func (tc *dnsCase) run(t *testing.T) []string {
	servers := []*nameserver{startNameserver(t, tc.handler), startNameserver(t, tc.handler)}
	s := newServer(tc.table())
	m := tc.question()
	r := exchange(t, tc.Query.Proto, start(t, s, tc.client(servers...)), m)
	asked := []int{len(servers[0].asked()), len(servers[1].asked())}
	return append(tc.want().compare(r, asked), sane(m, r)...)
}

func (tc *dnsCase) client(servers ...*nameserver) *Client {
	c := client(servers...)
	c.Namespace, c.Search = tc.Client.Namespace, tc.Client.Search
	c.IPv6 = tc.IPv6Enabled == nil || *tc.IPv6Enabled
	return c
}

// table is nil where the control plane has not spoken.
func (tc *dnsCase) table() *names.Table {
	plan := tc.plan()
	if plan == nil {
		return nil
	}
	return names.Build(plan, names.Options{ClusterDomain: tc.ClusterDomain, VIPs: ranges})
}

func (tc *dnsCase) question() *dns.Msg {
	m := question(tc.Query.Name, dns.StringToType[tc.Query.Type])
	if tc.Qclass != "" {
		m.Question[0].Qclass = dns.StringToClass[tc.Qclass]
	}
	if tc.Opcode != "" {
		m.Opcode = dns.StringToOpcode[tc.Opcode]
	}
	if tc.Query.EDNS > 0 {
		m.SetEdns0(tc.Query.EDNS, false)
	}
	return m
}

func (tc *dnsCase) want() *caseExpect {
	if tc.NodensExpect != nil {
		return tc.NodensExpect
	}
	return &tc.Expect
}

// ranges are those that virtual addresses are given from.
var ranges = []netip.Prefix{netip.MustParsePrefix("240.240.0.0/16"), netip.MustParsePrefix("2001:2::/48")}

// compare lists what differs between r and e; asked is how often each upstream was.
func (e *caseExpect) compare(r *dns.Msg, asked []int) (differences []string) {
	differ := func(what string, got, want any) {
		if got != want {
			differences = append(differences, fmt.Sprintf("%s is %v, want %v\n%v", what, got, want, r))
		}
	}
	if e.Rcode != nil {
		differ("rcode", dns.RcodeToString[r.Rcode], *e.Rcode)
	}
	if e.Answers != nil {
		differ("answer section", describe(records(r.Answer)), describe(*e.Answers))
	}
	if e.AnswerCount != nil {
		differ("number of answers", len(r.Answer), *e.AnswerCount)
	}
	if e.Forwarded != nil {
		differ("forwarded", asked[0]+asked[1] > 0, *e.Forwarded)
	}
	if e.TriesNext {
		differ("both servers were tried", asked[0] > 0 && asked[1] > 0, true)
	}
	for what, flag := range map[string]struct {
		got  bool
		want *bool
	}{"AA": {r.Authoritative, e.AA}, "RA": {r.RecursionAvailable, e.RA}, "TC": {r.Truncated, e.TC}, "OPT": {r.IsEdns0() != nil, e.OPT}} {
		if flag.want != nil {
			differ(what, flag.got, *flag.want)
		}
	}
	return differences
}

// sane lists what no reply may get wrong, whatever the case.
func sane(m, r *dns.Msg) (wrong []string) {
	if m.Opcode != dns.OpcodeQuery || m.Question[0].Qclass != dns.ClassINET {
		return nil // untouched, so not our reply
	}
	if !slices.Equal(r.Question, m.Question) {
		wrong = append(wrong, fmt.Sprintf("question came back as %v", r.Question))
	}
	if !r.RecursionAvailable || r.RecursionDesired != m.RecursionDesired {
		wrong = append(wrong, "RA is not set, or RD not copied")
	}
	if (r.IsEdns0() != nil) != (m.IsEdns0() != nil) {
		wrong = append(wrong, "OPT came back without being sent, or the other way round")
	}
	if r.Rcode == dns.RcodeSuccess && len(r.Answer) == 0 && r.Authoritative && len(r.Ns) == 0 {
		wrong = append(wrong, "NODATA without SOA")
	}
	return wrong
}

// records puts rrs in the words of the file: CNAMEs as they stand, then the rest sorted, since addresses
// may come in any order; names in lower case.
func records(rrs []dns.RR) (all []caseRecord) {
	for _, rr := range rrs {
		h := rr.Header()
		all = append(all, caseRecord{Name: strings.ToLower(h.Name), Type: dns.TypeToString[h.Rrtype], TTL: h.Ttl,
			Data: strings.TrimPrefix(rr.String(), h.String())})
	}
	return all
}

func describe(all []caseRecord) string {
	lines := make([]string, len(all))
	for i, r := range all {
		lines[i] = fmt.Sprintf("%s %d %s %s", r.Name, r.TTL, r.Type, r.Data)
	}
	at := len(lines)
	for at > 0 && all[at-1].Type != "CNAME" {
		at--
	}
	slices.Sort(lines[at:])
	return strings.Join(lines, "; ")
}

// handler answers as the case's upstream: what it lists, and NXDOMAIN for the rest.
func (tc *dnsCase) handler(w dns.ResponseWriter, m *dns.Msg) {
	r := new(dns.Msg).SetReply(m)
	r.RecursionAvailable = true
	name := strings.ToLower(m.Question[0].Name)
	answer, ok := tc.Upstream[name]
	switch {
	case !ok:
		r.Rcode = dns.RcodeNameError
	case answer.Rcode != "":
		r.Rcode = dns.StringToRcode[answer.Rcode]
	default:
		owner := m.Question[0].Name
		if answer.RRName != "" {
			owner = answer.RRName
		}
		texts := map[uint16][]string{dns.TypeA: answer.A, dns.TypeAAAA: answer.AAAA}[m.Question[0].Qtype]
		r.Answer = addresses(owner, 5, parsed(texts))
	}
	if _, udp := w.RemoteAddr().(*net.UDPAddr); udp && answer.ServerTruncates {
		r.Truncate(dns.MinMsgSize)
	}
	_ = w.WriteMsg(r)
}

// plan is what the control plane of the case would have made known; nil before it has spoken.
func (tc *dnsCase) plan() *mesh.Plan {
	switch {
	case tc.Workloads != nil:
		return &mesh.Plan{Names: tc.ztunnelRows()}
	case tc.Services != nil:
		return &mesh.Plan{Names: tc.istiodRows()}
	case tc.NameTable != nil:
		return &mesh.Plan{Names: tc.tableRows()}
	}
	return nil
}
