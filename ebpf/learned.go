package ebpf

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/cilium/ebpf"
)

// Source is what the kernel answers from.
type Source int

// What there is: the names, and what dnsd has said.
const (
	Declaration Source = iota + 1
	Lesson
)

const typeA, typeAAAA, typeSVCB, typeHTTPS = 1, 28, 64, 65 // RFC 1035, RFC 3596, RFC 9460

// Question is what a client asked. Clients of one View and one Asker get the same answers; an Asker of 0
// shares them with nobody.
type Question struct {
	Host  string // in lower case, with its final dot
	Type  uint16
	View  uint64 // ViewOf the client's Kubernetes namespace
	Asker uint64
}

// Reply is what dnsd replied, behind the question and without OPT. Addresses, if there are any, come
// last: Count records of Step bytes each, from Fixed on.
type Reply struct {
	Records              []byte
	Answers, Authorities uint16
	Rcode                uint8
	Fixed, Step, Count   int
}

// Asker numbers clients by all, beside the View, on which it depends what dnsd answers them. Nobody else can
// tell what comes to which number, and so make two of them one: it goes by a secret that is made with the maps.
func (s *Answers) Asker(parts ...string) uint64 {
	h := hmac.New(sha256.New, s.answering.rows[0].Secret[:])
	for _, p := range parts {
		_, _ = h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(p)))) // cannot fail
		_, _ = h.Write([]byte(p))
	}
	return max(binary.NativeEndian.Uint64(h.Sum(nil)), 1)
}

// shareSecret makes the secret of Asker unless it is there.
func (s *Answers) shareSecret() {
	if secret := &s.answering.rows[0].Secret; *secret == [len(secret)]byte{} {
		_, _ = rand.Read(secret[:]) // cannot fail
	}
}

// key is a question as the kernel has it; false: it does not fit, or is nobody's.
func (q *Question) key() (key nodensQuestion, ok bool) {
	key.View, key.Asker, key.Qtype = q.View, q.Asker, swap(q.Type)
	return key, q.Asker != 0 && wire(key.Wire[:], q.Host)
}

// Learn makes the kernel repeat a reply of dnsd's for as long as the generation is the one of the table it
// was given from. What does not fit is not learned.
func (s *Answers) Learn(q Question, generation uint64, r Reply) error {
	key, ok := q.key()
	if !ok || len(r.Records) > len(nodensReply{}.Records) || r.Count > int(nodensAgreedMOST_ROTATED) {
		return nil
	}
	row := nodensReply{
		Version: s.version.Add(1), Generation: generation, Size: uint16(len(r.Records)),
		Answers: swap(r.Answers), Authorities: swap(r.Authorities), Rcode: r.Rcode,
		Fixed: uint16(r.Fixed), Step: uint16(r.Step), Count: uint8(r.Count),
	}
	copy(row.Records[:], r.Records)
	if err := s.d.maps.Learned.Put(key, row); err != nil {
		return fmt.Errorf("write a reply: %w", err)
	}
	return nil
}

// Knows says what the kernel would answer a plain question from, 0 where it leaves that to dnsd. Whether it
// answers the pod at all, Check and Leaving say.
func (s *Answers) Knows(q Question) (from Source, err error) {
	name, asked := nodensName{View: q.View}, q.Type == typeA || q.Type == typeAAAA
	if wire(name.Wire[:], q.Host) && (asked || q.Type == typeHTTPS || q.Type == typeSVCB) {
		var row nodensAnswer
		err := s.d.maps.Names.Lookup(name, &row)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			name.View = 0
			err = s.d.maps.Names.Lookup(name, &row)
		}
		virtual := row.Flags&nodensAnswerFlagsANSWER_VIRTUAL != 0
		if err == nil && row.Flags&nodensAnswerFlagsANSWER_ELSEWHERE == 0 && (asked || virtual) {
			return Declaration, nil
		}
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return 0, fmt.Errorf("look %s up in the kernel: %w", q.Host, err)
		}
	}
	key, ok := q.key()
	if !ok {
		return 0, nil
	}
	var row nodensReply
	err = s.d.maps.Learned.Lookup(key, &row)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return 0, fmt.Errorf("look %s up in what the kernel has learned: %w", q.Host, err)
	}
	if err == nil && row.Generation == atomic.LoadUint64(&s.answering.rows[0].Generation) {
		return Lesson, nil
	}
	return 0, nil
}
