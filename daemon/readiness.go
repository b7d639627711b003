package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"dispatchd/internal/admin"
	"dispatchd/internal/intake"
	"dispatchd/internal/service"
	"dispatchd/internal/store"
)

// readiness says whether pings can be stored durably, and what is degraded.
func (a *app) readiness() admin.Readiness {
	ctx, cancel := context.WithTimeout(context.Background(), healthTimeout)
	defer cancel()
	r := admin.Readiness{}
	add := func(name string, ok bool, detail string, since time.Time) {
		r.Checks = append(r.Checks, admin.Check{Name: name, OK: ok, Detail: detail, Since: since})
	}
	problem, since := a.attached.state()
	redisErr := a.store.Ping(ctx)
	switch {
	case redisErr == nil && problem == "":
		add("redis", true, "answers and is ours", time.Time{})
	case errors.Is(redisErr, store.ErrForgot):
		add("redis", false, redisErr.Error(), since)
	case problem != "":
		add("redis", false, problem, since)
	default:
		add("redis", false, redisErr.Error(), since)
	}
	st := a.intake.State()
	add("intake", st.Mode == intake.ToLog, intakeWords(st), st.Since)
	sp := a.spool.Stats()
	add("spool", sp.Waiting == 0, fmt.Sprintf("%d pings wait", sp.Waiting), sp.Oldest)
	if system := a.hints.system.Load(); system != nil {
		err := system.Alive(ctx)
		add("actors", err == nil, words(err, "answer"), time.Time{})
	}
	if a.config.Load().Shadow() {
		add("delivery", false, shadowWhat, time.Time{})
	}
	if a.embedded != nil {
		add("durability", false, "Redis is embedded: this is a trial, everything is lost when the daemon stops", a.began)
	}
	if a.stopping.Load() {
		// Pings are still taken; who is asked who is ready sends the next ones elsewhere.
		add("process", false, "is stopping", time.Time{})
	}
	r.OK = st.Mode != intake.Refusing && !a.stopping.Load()
	return r
}

// shadowWhat says that nothing is sent.
const shadowWhat = "Shadow mode: deliveries are recorded and not sent"

// intakeWords says where pings go.
func intakeWords(st intake.State) string {
	switch st.Mode {
	case intake.ToSpool:
		return "pings go to the local spool: " + words(st.Err, "redis is away")
	case intake.Refusing:
		return "pings are refused with 429: " + words(st.Err, "nothing takes them")
	case intake.ToLog:
	}
	return "pings go to redis"
}

func words(err error, fine string) string {
	if err != nil {
		return err.Error()
	}
	return fine
}

// degraded lists what does not work right now, worst first.
func (a *app) degraded() []service.Problem {
	var out []service.Problem
	if st := a.intake.State(); st.Mode == intake.Refusing {
		out = append(out, service.Problem{
			What: intakeWords(st), Since: st.Since,
			Cost: "ORCID counts a failed attempt on every webhook it tries and gives up on it after about 26 h",
			Do:   "make room in data_dir, or bring Redis back",
		})
	}
	problem, since := a.attached.state()
	switch {
	case a.store.Guard().Forgot():
		out = append(out, service.Problem{
			What: problem, Since: since, Cost: "nothing is delivered, registered or unregistered; pings go to the spool",
			Do: "put the right Redis back and restart dispatchd; is it lost, restore its backup, then: dispatchd recover --accept-loss",
		})
	case a.fenced.Load():
		out = append(out, service.Problem{
			What: problem, Since: since, Cost: "this one delivers, registers and unregisters nothing; pings are taken",
			Do: "stop the other one, which has a copy of this data_dir, then: systemctl restart dispatchd",
		})
	case problem != "":
		out = append(out, service.Problem{What: problem, Since: since, Cost: "nothing is delivered; pings go to the spool", Do: "systemctl status redis-server"})
	}
	out = append(out, a.lifeProblems()...)
	out = append(out, a.hubProblems()...)
	out = append(out, a.guestProblems()...)
	out = append(out, a.refusedProblems()...)
	if a.config.Load().Shadow() {
		out = append(out, service.Problem{
			What: shadowWhat, Cost: "organisations are told nothing by us; dispatchd delivery log ORG --answers shows what they would be told",
			Do: `set delivery.mode = "live" in the configuration file, then: dispatchd reload`,
		})
	}
	if a.embedded != nil {
		out = append(out, service.Problem{
			What: "Redis is embedded: this is a trial", Since: a.began, Cost: "everything is lost when the daemon stops",
			Do: `set redis.url = "redis://127.0.0.1:6379/0" in the configuration file`,
		})
	}
	return out
}

// refusedProblems tells of news that waits because Redis refuses what it needs.
func (a *app) refusedProblems() []service.Problem {
	reader := a.attached.fanout.Load()
	if reader == nil {
		return nil
	}
	if r := reader.Refused(); r.Entries > 0 {
		return []service.Problem{service.RefusedNews(r.Entries, r.Full, r.Since, r.Err)}
	}
	return nil
}
