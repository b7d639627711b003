package service

import (
	"context"
	"testing"

	"dispatchd/internal/event"
	"dispatchd/internal/store"
)

// hungMailer is a mail server that takes the connection and says nothing.
type hungMailer struct{ began chan struct{} }

func (m hungMailer) Mail(ctx context.Context, _ Letter) error {
	m.began <- struct{}{}
	<-ctx.Done()
	return ctx.Err()
}

// TestAMailServerThatHangsKeepsNoOtherJob: not with notices for more
// organisations than jobs run at once, either.
func TestAMailServerThatHangsKeepsNoOtherJob(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.uniA(t)
	o, _ := b.dir.Organisation("uni-a")
	told := *o
	told.TechnicalContact = "it@uni-a.example"
	mailer := hungMailer{make(chan struct{}, 2*jobsAtOnce)}
	b.svc.o.Mailer = mailer
	b.live(t)
	for range 2 * jobsAtOnce {
		b.svc.Notices().ChannelSuspended(&told, event.Webhook, "the receiver answered 410 Gone")
	}
	for range jobsAtOnce {
		<-mailer.began
	}
	j, err := b.svc.Replay(t.Context(), tester, "uni-a", store.Selection{})
	if err != nil {
		t.Fatal(err)
	}
	await(t, "the end of the replay", func() bool { return b.ended(t, j.ID) })
}
