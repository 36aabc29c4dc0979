package objects

import (
	"math"
	"testing"

	"google.golang.org/protobuf/types/known/wrapperspb"
	networking "istio.io/api/networking/v1alpha3"
)

// TestConsecutive reads how many failures eject, which Istio can say in three ways.
func TestConsecutive(t *testing.T) {
	n := wrapperspb.UInt32
	for _, tc := range []struct {
		name string
		o    *networking.OutlierDetection
		want uint32
	}{
		{"nothing", &networking.OutlierDetection{}, 0},
		{"5xx", &networking.OutlierDetection{Consecutive_5XxErrors: n(7)}, 7},
		{"gateway", &networking.OutlierDetection{ConsecutiveGatewayErrors: n(3)}, 3},
		{"the lesser", &networking.OutlierDetection{Consecutive_5XxErrors: n(7), ConsecutiveGatewayErrors: n(3)}, 3},
		{"only one counts", &networking.OutlierDetection{Consecutive_5XxErrors: n(0), ConsecutiveGatewayErrors: n(3)}, 3},
		{"never", &networking.OutlierDetection{Consecutive_5XxErrors: n(0)}, math.MaxUint32},
		{"counted apart", &networking.OutlierDetection{SplitExternalLocalOriginErrors: true,
			ConsecutiveLocalOriginFailures: n(2), Consecutive_5XxErrors: n(0)}, 2},
		{"counted apart, default", &networking.OutlierDetection{SplitExternalLocalOriginErrors: true}, 0},
	} {
		if got := consecutive(tc.o); got != tc.want {
			t.Errorf("%s: %d, want %d", tc.name, got, tc.want)
		}
	}
}
