package ebpf

import (
	"math"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// connections reads how many connections each backend of a service has ever got.
func connections(t testing.TB, s *Services, name string) (all []float64) {
	t.Helper()
	for _, b := range state(t, s, name).Backends {
		all = append(all, float64(b.Connections))
	}
	return all
}

// chance is how likely a deviation from the weights like this, or a larger one, is: Pearson's chi-square
// test of three counts, for which the distribution has a closed form.
func chance(got [3]float64, weights [3]float64) float64 {
	n, total, chi := 0.0, 0.0, 0.0
	for i := range got {
		n += got[i]
		total += weights[i]
	}
	for i := range got {
		want := n * weights[i] / total
		chi += (got[i] - want) * (got[i] - want) / want
	}
	return math.Exp(-chi / 2)
}

// Policies that draw lots keep to the weights. LEAST_REQUEST draws lots, too, as long as nothing is open:
// then all are equally busy, and 17:2:1 of 20 connections at weights 3:2:1 is a matter of chance (such a
// run, or one with yet more for the first, once in 780).
func TestDistribution(t *testing.T) {
	w, s := lbWorld(t)
	vip := netip.AddrPortFrom(vip4, 80)
	for name, policy := range map[string]Policy{"random": Random, "least request, nothing open": LeastRequest} {
		for _, weights := range [][3]float64{{1, 1, 1}, {3, 2, 1}, {100, 10, 1}} {
			f := map[Frontend]string{}
			both(f, vip4, 80, name)
			all := backends(8080, back4...)
			for i := range all {
				all[i].Weight = uint32(weights[i])
			}
			apply(t, s, f, map[string]Service{name: {Policy: policy, Backends: all}})
			before := connections(t, s, name)
			k := w.socket(t, unix.AF_INET, unix.SOCK_DGRAM, 0)
			for range 6000 {
				must(t, k.connect(vip))
			}
			k.close()
			var got [3]float64
			for i, n := range connections(t, s, name) {
				got[i] = n - before[i]
			}
			if p := chance(got, weights); p < 1e-9 {
				t.Errorf("%s, weights %v: %v, which happens by chance with probability %.2g", name, weights, got, p)
			}
		}
	}
	if p := chance([3]float64{1100, 1000, 900}, [3]float64{1, 1, 1}); p > 1e-4 || p < 1e-5 {
		t.Errorf("a test that cannot fail: %g", p)
	}
}

// clientsOf connects as many pods as there are addresses and says where each goes.
func (w *world) clientsOf(t *testing.T, s *Services, name string, vip netip.AddrPort, n int) []int {
	t.Helper()
	went := make([]int, n)
	for i := range n {
		must(t, w.PutPod(w.cookie, Pod{Addr4: netip.AddrFrom4([4]byte{10, 77, byte(i >> 8), byte(i)}), LB: true}))
		k := w.socket(t, unix.AF_INET, unix.SOCK_DGRAM, 0)
		for j := range 2 { // a client goes to one place
			before := connections(t, s, name)
			must(t, k.connect(vip))
			for b, now := range connections(t, s, name) {
				if now == before[b] {
					continue
				}
				if j > 0 && went[i] != b {
					t.Fatalf("client %d goes to backends %d and %d", i, went[i], b)
				}
				went[i] = b
			}
		}
		k.close()
	}
	return went
}

// A pod's address decides where it goes. When a backend goes, its clients spread over the others and
// nobody else moves much; when it is only ejected, nobody else moves at all.
func TestHashing(t *testing.T) {
	const clients = 150
	w, s := lbWorld(t)
	vip := netip.AddrPortFrom(vip4, 80)
	for name, policy := range map[string]Policy{"ring": RingHash, "maglev": Maglev} {
		f := map[Frontend]string{}
		both(f, vip4, 80, name)
		apply(t, s, f, map[string]Service{name: {Policy: policy, Backends: backends(8080, back4...)}})
		before := w.clientsOf(t, s, name, vip, clients)
		var shares [3]float64
		for _, b := range before {
			shares[b]++
		}
		if p := chance(shares, [3]float64{1, 1, 1}); policy == Maglev && p < 1e-9 {
			t.Errorf("%s: clients go %v", name, shares)
		}

		apply(t, s, f, map[string]Service{name: {Policy: policy, Backends: backends(8080, back4[:2]...)}})
		moved, needless := 0, 0
		for i, b := range w.clientsOf(t, s, name, vip, clients) {
			if b != before[i] {
				moved++
				if before[i] != 2 {
					needless++
				}
			}
		}
		if moved-needless != int(shares[2]) || needless > clients/10 {
			t.Errorf("%s: without one of three %d clients of %d move, %d of them without need; it had %v", name, moved, clients, needless, shares[2])
		}
		if policy == RingHash && needless > 0 {
			t.Errorf("%d clients move on a ring without need", needless)
		}
	}
}
