package service

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"dispatchd/internal/event"
	"dispatchd/internal/org"
	"dispatchd/internal/store"
)

// get returns the organisation or a not-found error.
func (s *Service) get(id string) (*org.Organisation, error) {
	o, ok := s.o.Directory.Organisation(id)
	if !ok {
		if err := s.known(); err != nil {
			return nil, err
		}
		e := notFound("There is no organisation %q.", id)
		e.Do = "`dispatchd org list` shows them all."
		return nil, e
	}
	return o, nil
}

// known fails while the organisations were not read since the start: what the
// directory lacks must not be called absent then.
func (s *Service) known() error {
	if s.loaded.Load() {
		return nil
	}
	if guard := s.o.Store.Guard(); guard.Forgot() {
		return Explain("look organisations up", guard.Err())
	}
	return &Error{
		Code: CodeUnavailable, What: "The organisations are not known yet: Redis has not been read since the start.",
		Do: "Try again; `dispatchd status` says what is wrong with Redis if that goes on.",
	}
}

// changeable is get for those that may be changed here.
func (s *Service) changeable(id string) (*org.Organisation, error) {
	o, err := s.get(id)
	if err != nil {
		return nil, err
	}
	if o.Owner == org.OwnedByFile {
		return nil, &Error{
			Code: CodeReadOnly, What: fmt.Sprintf("The settings of %q are written in the configuration file.", id),
			Do: "Change them there and run `dispatchd reload`.",
		}
	}
	return o, nil
}

// Organisation returns one organisation with its users and channels.
func (s *Service) Organisation(ctx context.Context, id string) (View, error) {
	o, err := s.get(id)
	if err != nil {
		return View{}, err
	}
	v := view(o)
	if v.Users, err = s.o.Store.MemberCount(ctx, id); err != nil {
		return View{}, Explain("count users", err)
	}
	if v.Channels, err = s.channels(ctx, []*org.Organisation{o}); err != nil {
		return View{}, err
	}
	for i, c := range v.Channels {
		if v.Channels[i].Waits, err = s.waits(ctx, o, c); err != nil {
			return View{}, err
		}
	}
	return v, nil
}

// Organisations returns every organisation with its channels, by id.
func (s *Service) Organisations(ctx context.Context) ([]View, error) {
	if err := s.known(); err != nil {
		return nil, err
	}
	views, err := s.views(ctx)
	if errors.Is(err, event.ErrIncomplete) {
		return views, nil // each channel says it
	}
	return views, err
}

// views is Organisations of those that are known so far.
func (s *Service) views(ctx context.Context) ([]View, error) {
	all := s.o.Directory.All()
	channels, unread := s.channels(ctx, all)
	if unread != nil && !errors.Is(unread, event.ErrIncomplete) {
		return nil, unread
	}
	ids := make([]string, len(all))
	for i, o := range all {
		ids[i] = o.ID
	}
	users, err := s.o.Store.MemberCounts(ctx, ids)
	if err != nil {
		return nil, Explain("count users", err)
	}
	views := make([]View, len(all))
	for i, o := range all {
		views[i] = view(o)
		views[i].Channels = channels[i*len(event.Channels) : (i+1)*len(event.Channels)]
		views[i].Users = users[i]
	}
	return views, unread
}

// Lately tells how the newest attempts of organisations went, in their order.
func (s *Service) Lately(ctx context.Context, ids []string) ([]store.Ratio, error) {
	list, err := s.o.Store.Lately(ctx, ids)
	if err != nil {
		return nil, Explain("look at the attempts", err)
	}
	return list, nil
}

// PutOrganisation makes an organisation or replaces its settings. It reports
// whether it was made. Secrets that were not sent stay.
func (s *Service) PutOrganisation(ctx context.Context, by By, id string, in Settings) (View, bool, error) {
	s.changing.Lock()
	defer s.changing.Unlock()
	if in.ID != nil && *in.ID != id {
		return View{}, false, invalid("The id in the body is not the one in the path.", fmt.Errorf("%q is not %q", *in.ID, id))
	}
	next := defaults(id)
	old, exists := s.o.Directory.Organisation(id)
	if exists {
		if _, err := s.changeable(id); err != nil {
			return View{}, false, err
		}
		next.Webhook.APIKey = old.Webhook.APIKey
		next.Webhook.SigningSecret = old.Webhook.SigningSecret
		next.Webhook.OldSigningSecret = old.Webhook.OldSigningSecret
		next.API.ClientSecret = old.API.ClientSecret
	}
	in.apply(&next)
	if err := s.change(ctx, by, old, next); err != nil {
		return View{}, false, err
	}
	v, err := s.Organisation(ctx, id)
	return v, !exists, err
}

// PatchOrganisation changes the settings that were sent.
func (s *Service) PatchOrganisation(ctx context.Context, by By, id string, in Settings) (View, error) {
	s.changing.Lock()
	defer s.changing.Unlock()
	old, err := s.changeable(id)
	if err != nil {
		return View{}, err
	}
	if in.ID != nil && *in.ID != id {
		return View{}, invalid("The id of an organisation cannot be changed.", fmt.Errorf("%q is not %q", *in.ID, id))
	}
	next := clone(old)
	in.apply(&next)
	if err := s.change(ctx, by, old, next); err != nil {
		return View{}, err
	}
	return s.Organisation(ctx, id)
}

// Move lets another ORCID credential serve an organisation. Nobody's news is
// missed: each user goes on being served by the old one until the registration
// with the new one lives.
func (s *Service) Move(ctx context.Context, by By, id, credential string) (View, error) {
	old, err := s.changeable(id)
	if err != nil {
		return View{}, err
	}
	if credential == old.Credential {
		return View{}, &Error{Code: CodeConflict, What: fmt.Sprintf("Organisation %q is served by credential %q already.", id, credential)}
	}
	return s.PatchOrganisation(ctx, by, id, Settings{Credential: &credential})
}

// clone copies what apply may change in place.
func clone(o *org.Organisation) org.Organisation {
	c := *o
	c.Webhook.Headers = maps.Clone(o.Webhook.Headers)
	c.Webhook.Events = slices.Clone(o.Webhook.Events)
	c.Channels = maps.Clone(o.Channels)
	c.Suspensions = slices.Clone(o.Suspensions)
	return c
}

// Enable enables one channel; an empty one means webhook when it has a URL,
// else e-mail.
func (s *Service) Enable(ctx context.Context, by By, id string, ch event.Channel) (View, error) {
	o, err := s.changeable(id)
	if err != nil {
		return View{}, err
	}
	if ch == "" {
		ch = event.Webhook
		if o.Webhook.URL == "" {
			ch = event.Email
		}
	}
	yes := true
	in, err := switchChannel(o, ch, &yes)
	if err != nil {
		return View{}, err
	}
	return s.PatchOrganisation(ctx, by, id, in)
}

// Disable disables one channel, or with an empty one all of them: pending
// deliveries are cancelled and its users unregistered when nobody else of the
// credential wants them.
func (s *Service) Disable(ctx context.Context, by By, id string, ch event.Channel) (View, error) {
	o, err := s.changeable(id)
	if err != nil {
		return View{}, err
	}
	no := false
	if ch == "" {
		return s.PatchOrganisation(ctx, by, id, Settings{
			Webhook: &WebhookSettings{Enabled: &no}, Email: &EmailSettings{Enabled: &no}, Channels: &map[event.Channel]string{},
		})
	}
	in, err := switchChannel(o, ch, &no)
	if err != nil {
		return View{}, err
	}
	return s.PatchOrganisation(ctx, by, id, in)
}

// switchChannel are the settings that switch one channel. A further one is
// enabled by saying where it leads.
func switchChannel(o *org.Organisation, ch event.Channel, to *bool) (Settings, error) {
	switch ch {
	case event.Webhook:
		return Settings{Webhook: &WebhookSettings{Enabled: to}}, nil
	case event.Email:
		return Settings{Email: &EmailSettings{Enabled: to}}, nil
	}
	if *to && !o.Enabled(ch) {
		return Settings{}, &Error{Code: CodeInvalid, What: fmt.Sprintf("Where channel %q leads is not known.", ch), Do: "Set channels in the organisation's settings."}
	}
	next := maps.Clone(o.Channels)
	if !*to {
		delete(next, ch)
	}
	return Settings{Channels: &next}, nil
}

// change validates next and makes it so. The job comes first: whatever is cut
// off in between is done again at the next start. Partitions are switched before
// the directory: fan-out asks the directory first, and what it sends to a
// partition that is still switched off is ignored for ever. old is nil for a new
// one. What is said besides stands in the audit line.
func (s *Service) change(ctx context.Context, by By, old *org.Organisation, next org.Organisation, said ...any) error {
	if err := s.validate(&next); err != nil {
		return err
	}
	if err := s.notRemoving(next.ID); err != nil {
		return err
	}
	if !next.Webhook.SigningSecret.IsSet() {
		next.Webhook.SigningSecret = newSigningSecret()
	}
	if old != nil {
		next.Former = old.Moved(next.Credential, s.o.Store.Now())
		if reflect.DeepEqual(*old, next) {
			return nil
		}
	}
	// Whoever asked may hang up, but not halfway; the store bounds each call.
	ctx = context.WithoutCancel(ctx)
	sweep := needsSweep(old, &next)
	job := newJob(jobApply, next.ID, s.o.Store.Now())
	if sweep {
		if err := s.o.Store.SaveJob(ctx, job); err != nil {
			return Explain("note the job", err)
		}
	}
	endTokens := func() error {
		if old == nil || sameClient(old.API, next.API) {
			return nil
		}
		return Explain("end the access tokens", s.o.Store.DropAPITokens(ctx, next.ID))
	}
	if err := endTokens(); err != nil {
		return err
	}
	var retime *store.Job
	if needsRetime(old, &next) {
		j := newJob(jobRetime, next.ID, s.o.Store.Now())
		if err := s.o.Store.SaveJob(ctx, j); err != nil {
			return Explain("note the job", err)
		}
		retime = &j
	}
	if old == nil {
		// One of the same name may have been removed while an attempt was on its way,
		// whose hold was written after.
		if err := s.o.Store.ForgetHolds(ctx, next.ID); err != nil {
			return Explain("begin without holds", err)
		}
	}
	if err := s.o.Store.SaveOrganisation(ctx, next); err != nil {
		return Explain("save the organisation", err)
	}
	if sweep {
		// Also when switching fails: the job takes what was saved and goes on.
		defer s.startJob(job)
		if err := s.switchChannels(ctx, &next); err != nil {
			return err
		}
	}
	s.o.Directory.Put(next)
	s.audit(by, "organisation saved", append([]any{"org", next.ID, "changed", Changed(old, &next)}, said...)...)
	if old != nil && old.Credential != next.Credential {
		if err := s.o.Store.WakeGuests(ctx); err != nil {
			s.log.Warn("callbacks of an organisation follow its new credential within the hour", "org", next.ID, "err", err)
		}
	}
	// Once more: until now the old secret made new ones.
	if err := endTokens(); err != nil {
		return err
	}
	return s.mailChanged(ctx, old, &next, retime)
}

// switchChannels tells the organisation's partition which channels are
// enabled; enqueue checks it there.
func (s *Service) switchChannels(ctx context.Context, o *org.Organisation) error {
	for _, ch := range event.Channels {
		if err := s.o.Store.SetChannel(ctx, o.ID, ch, o.Enabled(ch)); err != nil {
			return Explain("switch the channel", err)
		}
	}
	return nil
}

// needsSweep reports whether users may have to be registered, unregistered or
// their slots cancelled.
func needsSweep(old, next *org.Organisation) bool {
	if old == nil {
		return true
	}
	if old.Credential != next.Credential {
		return true
	}
	for _, ch := range event.Channels {
		if old.Enabled(ch) != next.Enabled(ch) {
			return true
		}
	}
	return false
}

// validate checks the settings by themselves and against everything else.
func (s *Service) validate(o *org.Organisation) error {
	names := s.o.Credentials()
	if o.Credential == "" && len(names) == 1 {
		o.Credential = names[0]
	}
	var problems []org.Problem
	if err := o.Validate(); err != nil {
		problems = invalid("", err).Problems
	}
	problems = append(problems, checkPending(o)...)
	switch {
	case o.Credential == "" && len(names) == 0:
		// Without any credential nothing can be registered; the trial
		// configuration is like that. Enabling is what needs one.
		if o.AnyEnabled() {
			problems = append(problems, org.Problem{Key: "credential", Why: "no ORCID credential is configured ([orcid.credential.…])"})
		}
	case !slices.Contains(names, o.Credential):
		problems = append(problems, org.Problem{Key: "credential", Why: fmt.Sprintf("%q is not configured; there is %v", o.Credential, names)})
	}
	// The file is checked when it is loaded. Whoever has e-mail already keeps it:
	// status says that it waits.
	if was, ok := s.o.Directory.Organisation(o.ID); o.Owner == org.OwnedByAPI && o.Email.Enabled && (!ok || !was.Email.Enabled) && !s.canMail() {
		problems = append(problems, org.Problem{Key: "email.enabled", Why: "there is no mail server: the hub's operator has to set [smtp] first"})
	}
	if id := o.API.ClientID; id != "" {
		for _, other := range s.o.Directory.All() {
			if other.ID != o.ID && other.API.ClientID == id {
				problems = append(problems, org.Problem{Key: "api.client_id", Why: "is used by another organisation"})
			}
		}
	}
	if len(problems) > 0 {
		return &Error{Code: CodeInvalid, What: fmt.Sprintf("The settings of organisation %q are not valid.", o.ID), Problems: problems}
	}
	return nil
}

// canMail reports whether there is a mail server.
func (s *Service) canMail() bool { return s.o.CanMail == nil || s.o.CanMail() }

// Changed names the settings that differ, for people; secrets only by name.
func Changed(old, next *org.Organisation) []string {
	if old == nil {
		return []string{"new"}
	}
	var out []string
	add := func(key string, same bool) {
		if !same {
			out = append(out, key)
		}
	}
	add("name", old.Name == next.Name)
	add("credential", old.Credential == next.Credential)
	add("technical_contact", old.TechnicalContact == next.TechnicalContact)
	add("timezone", old.Timezone == next.Timezone)
	add("concurrency", old.Concurrency == next.Concurrency)
	add("owner", old.Owner == next.Owner)
	a, b := old.Webhook, next.Webhook
	add("webhook.enabled", a.Enabled == b.Enabled)
	add("webhook.url", a.URL == b.URL)
	add("webhook.append_orcid", a.AppendORCID == b.AppendORCID)
	add("webhook.apikey", a.APIKey == b.APIKey)
	add("webhook.signing_secret", a.SigningSecret == b.SigningSecret)
	add("webhook.headers", maps.Equal(a.Headers, b.Headers))
	add("webhook.payload", a.Payload == b.Payload)
	add("webhook.events", slices.Equal(a.Events, b.Events))
	e, f := old.Email, next.Email
	add("email.enabled", e.Enabled == f.Enabled)
	add("email.address", e.Address == f.Address)
	add("email.pending", e.Pending == f.Pending)
	add("email.cc", e.CC == f.CC)
	add("email.mode", e.Mode == f.Mode)
	add("email.monthly", e.Monthly == f.Monthly)
	add("email.max_per_hour", e.MaxPerHour == f.MaxPerHour)
	add("channels", maps.Equal(old.Channels, next.Channels))
	add("api", sameClient(old.API, next.API))
	return out
}
