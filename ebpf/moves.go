package ebpf

// Move says how Apply changed which backends are behind which frontends.
type Move struct {
	Left bool // a backend has left a service, or a service a frontend: sockets may be connected to it still
	Came bool // one has come, perhaps back
}

// Moves receives after every Apply that moved anybody; Applies that nobody listened to are one Move.
func (s *Services) Moves() <-chan Move { return s.moves }

// tell sends what has moved since the last time. It is the channel's only sender, so there is room once
// an earlier Move has been taken out.
func (s *Services) tell() {
	if s.move == (Move{}) {
		return
	}
	select {
	case earlier := <-s.moves:
		s.move.Left, s.move.Came = s.move.Left || earlier.Left, s.move.Came || earlier.Came
	default:
	}
	s.moves <- s.move
	s.move = Move{}
}

// note compares a service's backends, by number, before and after.
func (m *Move) note(before, after []uint32) {
	gone := make(map[uint32]bool, len(before))
	for _, id := range before {
		gone[id] = true
	}
	for _, id := range after {
		m.Came = m.Came || !gone[id]
		delete(gone, id)
	}
	m.Left = m.Left || len(gone) > 0
}
