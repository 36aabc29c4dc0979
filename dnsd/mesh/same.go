package mesh

import (
	"reflect"
	"slices"
	"unsafe"
)

// Whether two objects say the same. Sources that decode only what has changed hand on the rest as it
// was, memory and all, which is found out without looking inside.

func sameSlice[T any](a, b []T, same func(a, b *T) bool) bool {
	if len(a) != len(b) {
		return false
	}
	if unsafe.SliceData(a) == unsafe.SliceData(b) {
		return true
	}
	for i := range a {
		if !same(&a[i], &b[i]) {
			return false
		}
	}
	return true
}

func sameHost(a, b *Host) bool {
	return a.Name == b.Name && a.Object == b.Object && a.Namespace == b.Namespace &&
		a.Kubernetes == b.Kubernetes && a.Imported == b.Imported && a.Allocate == b.Allocate && a.Headless == b.Headless &&
		a.ExternalName == b.ExternalName && slices.Equal(a.ExportTo, b.ExportTo) &&
		slices.Equal(a.Addresses, b.Addresses) && slices.Equal(a.Ports, b.Ports) &&
		a.TTL == b.TTL && sameData(a.Data, b.Data) && sameSlice(a.Records, b.Records, sameRecord)
}

func sameRecord(a, b *Record) bool {
	return a.Label == b.Label && slices.Equal(a.Addresses, b.Addresses) && slices.Equal(a.Ports, b.Ports)
}

func sameListener(a, b *Listener) bool {
	return a.Name == b.Name && a.View == b.View && a.Address == b.Address && a.Port == b.Port &&
		a.Protocol == b.Protocol && slices.Equal(a.Clusters, b.Clusters)
}

func sameCluster(a, b *Cluster) bool {
	return a.Name == b.Name && a.Discovery == b.Discovery && a.RequiresTLS == b.RequiresTLS &&
		sameSlice(a.Localities, b.Localities, sameLocality) &&
		(a.DNS == b.DNS || reflect.DeepEqual(a.DNS, b.DNS)) && sameBalancing(&a.Balancing, &b.Balancing)
}

// sameBalancing leaves to reflection what differs at first sight: two pointers may well say the same.
func sameBalancing(a, b *Balancing) bool { return *a == *b || reflect.DeepEqual(a, b) }

func sameLocality(a, b *Locality) bool {
	return a.Region == b.Region && a.Zone == b.Zone && a.SubZone == b.SubZone && a.Weight == b.Weight &&
		a.Priority == b.Priority && slices.Equal(a.Endpoints, b.Endpoints)
}

// sameResolution leaves out the error, which changes nothing.
func sameResolution(a, b *Resolution) bool {
	return a.Lookup == b.Lookup && a.Negative == b.Negative && slices.Equal(a.Addresses, b.Addresses)
}
