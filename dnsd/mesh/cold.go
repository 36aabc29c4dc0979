package mesh

// Cold returns the hosts of p that told does not have and whose connections could only be refused, since
// the first lookups for them are still under way. They are better not told of until those have ended, if
// only by failing: what DNS answers, connections must reach. Envoy, too, serves a new cluster once it is
// warm.
func (p *Plan) Cold(told *Plan) map[string]bool {
	fresh := make(map[string]bool)
	for old, n := range changedNames(told, p) {
		if old == nil {
			fresh[n.Host] = true
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	for _, n := range told.Names {
		delete(fresh, n.Host) // in another view
	}
	cold := make(map[string]bool)
	for _, a := range p.Assignments {
		if a.Cold {
			cold[a.Name] = true
		}
	}
	hosts := make(map[string]bool)
	for _, f := range p.Frontends {
		if fresh[f.Host] && cold[f.Assignment] && f.Port != 0 {
			hosts[f.Host] = true
		}
	}
	return hosts
}
