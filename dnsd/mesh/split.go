package mesh

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// share is a cluster's part of a split.
type share struct {
	of     *assigned
	weight uint32
}

// splitScale is what the weights of a split's first priority add up to before they are reduced. Every
// number up to 16 divides it, and 100 does, so that usual shares of usual clusters come out exact.
const splitScale = 3_603_600

// split returns what weighted clusters are together: each endpoint's weight becomes its part of its
// cluster's part. Clusters without a weight get nothing, unless none has one.
func (r *run) split(s *source, shares []share) *assigned {
	total := uint64(0)
	for _, sh := range shares {
		total += uint64(sh.weight)
	}
	if total == 0 {
		for i := range shares {
			shares[i].weight = 1
		}
		total = uint64(len(shares))
	}
	shares = slices.DeleteFunc(shares, func(sh share) bool { return sh.weight == 0 })
	if len(shares) == 1 {
		return shares[0].of
	}
	parts := make([]string, len(shares))
	for i, sh := range shares {
		parts[i] = fmt.Sprintf("%s*%d", sh.of.Cluster, sh.weight)
	}
	cluster := strings.Join(parts, " + ")
	name := s.name + "/" + cluster
	if a := r.find(name); a != nil {
		return a
	}
	first := shares[0].of
	a := &assigned{Assignment: &Assignment{
		Name: name, Cluster: cluster, Source: s.name, Discovery: first.Discovery, Balancing: first.unweighted(),
	}}
	for _, sh := range shares {
		part := float64(sh.weight) / float64(total) * splitScale
		a.Localities = append(a.Localities, sh.of.scaled(part)...)
		a.has4, a.has6 = a.has4 || sh.of.has4, a.has6 || sh.of.has6
		a.wants = append(a.wants, sh.of.wants...)
		a.all = append(a.all, sh.of.all...)
	}
	reduce(a.Localities)
	slices.SortFunc(a.Localities, compareLocalities)
	return r.enter(a)
}

// unweighted is how a split whose first share is a spreads its connections: as a does, but for the
// weights of localities, which are in those of the endpoints then.
func (a *assigned) unweighted() Balancing {
	b := a.Balancing
	b.LocalityWeighted = false
	return b
}

// scaled returns the localities with weights that add up to sum in every priority, locality weights
// included. Priorities are counted anew from 0, so that every cluster of a split takes part with its
// own first choice.
func (a *assigned) scaled(sum float64) []AssignedLocality {
	weights := a.healthyWeights()
	scaled := make([]AssignedLocality, len(a.Localities))
	for i, loc := range a.Localities {
		factor := sum / weights[loc.Priority]
		endpoints := make([]AssignedEndpoint, len(loc.Endpoints))
		for j, e := range loc.Endpoints {
			weight := uint32(max(1, math.Round(a.weightOf(loc, e)*factor)))
			endpoints[j] = AssignedEndpoint{e.Address, weight, e.Unhealthy}
		}
		scaled[i] = loc
		scaled[i].Endpoints, scaled[i].Weight = endpoints, 1
		scaled[i].Priority = 0
		if i > 0 {
			scaled[i].Priority = scaled[i-1].Priority
			if loc.Priority != a.Localities[i-1].Priority {
				scaled[i].Priority++
			}
		}
	}
	return scaled
}

// healthyWeights is the sum of the weights of each priority, as they are: of its healthy endpoints, since
// the others get nothing of the cluster's part, or of all if none is.
func (a *assigned) healthyWeights() map[uint32]float64 {
	healthy, all := map[uint32]float64{}, map[uint32]float64{}
	for _, loc := range a.Localities {
		for _, e := range loc.Endpoints {
			w := a.weightOf(loc, e)
			all[loc.Priority] += w
			if !e.Unhealthy {
				healthy[loc.Priority] += w
			}
		}
	}
	maps.Copy(all, healthy)
	return all
}

// reduce divides all weights by what they have in common. The localities are the caller's own.
func reduce(localities []AssignedLocality) {
	common := uint32(0)
	for _, loc := range localities {
		for _, e := range loc.Endpoints {
			a, b := common, e.Weight
			for b != 0 {
				a, b = b, a%b
			}
			common = a
		}
	}
	for _, loc := range localities {
		for i := range loc.Endpoints {
			loc.Endpoints[i].Weight /= common
		}
	}
}

// weightOf is an endpoint's weight among all of its priority.
func (a *assigned) weightOf(loc AssignedLocality, e AssignedEndpoint) float64 {
	if !a.LocalityWeighted {
		return float64(e.Weight)
	}
	sum := 0.0
	for _, other := range loc.Endpoints {
		sum += float64(other.Weight)
	}
	return float64(loc.Weight) * float64(e.Weight) / sum
}
