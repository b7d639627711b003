package sim

import (
	"fmt"
	"net/http"
	"strconv"

	"dispatchd/internal/orcid"
	"dispatchd/internal/secret"
)

func (r *Registry) getProfiles(req *http.Request) (any, error) {
	skip, err := intParam(req, "skip", 0)
	if err != nil {
		return nil, err
	}
	limit, err := intParam(req, "limit", 1000)
	if err != nil {
		return nil, err
	}
	return node{"profiles": r.Profiles(skip, limit)}, nil
}

func (r *Registry) postProfiles(req *http.Request) (any, error) {
	var in struct {
		Count int
		ORCID []orcid.ID
	}
	if err := decode(req, &in); err != nil {
		return nil, err
	}
	for _, id := range in.ORCID {
		r.AddProfile(id)
	}
	return node{"orcid": append(r.AddProfiles(in.Count), in.ORCID...)}, nil
}

func (r *Registry) getProfile(req *http.Request) (any, error) {
	id, err := pathID(req)
	if err != nil {
		return nil, err
	}
	return r.Profile(id)
}

func (r *Registry) postChange(req *http.Request) (any, error) {
	id, err := pathID(req)
	if err != nil {
		return nil, err
	}
	in := struct {
		Section, Title, Visibility string
		Op                         Op
		PutCode                    int64 `json:"put_code"`
	}{Section: "works", Op: Edit}
	if err := decode(req, &in); err != nil {
		return nil, err
	}
	put, err := r.ChangeItem(id, in.Op, Item{Section: in.Section, PutCode: in.PutCode, Title: in.Title, Visibility: in.Visibility})
	return node{"put_code": put}, err
}

func (r *Registry) postState(req *http.Request) (any, error) {
	id, err := pathID(req)
	if err != nil {
		return nil, err
	}
	var in struct{ Primary orcid.ID }
	if err := decode(req, &in); err != nil {
		return nil, err
	}
	var do func(orcid.ID) error
	switch verb := req.PathValue("verb"); verb {
	case "lock":
		do = r.Lock
	case "unlock":
		do = r.Unlock
	case "deactivate":
		do = r.Deactivate
	case "reactivate":
		do = r.Reactivate
	case "deprecate":
		do = func(id orcid.ID) error { return r.Deprecate(id, in.Primary) }
	case "claim", "unclaim":
		do = func(id orcid.ID) error { return r.SetClaimed(id, verb == "claim") }
	case "touch", "grant-token":
		do = r.Touch
	default:
		return nil, fmt.Errorf("what to do with a profile (%q): %w", verb, ErrUnknown)
	}
	if err := do(id); err != nil {
		return nil, err
	}
	return r.Profile(id)
}

func (r *Registry) postChangeRandom(req *http.Request) (any, error) {
	in := struct{ Count int }{1}
	if err := decode(req, &in); err != nil {
		return nil, err
	}
	return node{"orcid": r.ChangeRandom(in.Count)}, nil
}

func (r *Registry) postTraffic(req *http.Request) (any, error) {
	var in Activity
	if err := decode(req, &in); err != nil {
		return nil, err
	}
	return in, r.Traffic(in)
}

func (r *Registry) postReindex(req *http.Request) (any, error) {
	in := struct {
		Count int
		Bump  bool
	}{Bump: true}
	if err := decode(req, &in); err != nil {
		return nil, err
	}
	return node{"count": r.MassReindex(in.Count, in.Bump)}, nil
}

func (r *Registry) postSender(req *http.Request) (any, error) {
	var in struct {
		Paused     *bool
		Threads    int
		ReplicaLag *string `json:"replica_lag"`
	}
	if err := decode(req, &in); err != nil {
		return nil, err
	}
	if in.ReplicaLag != nil {
		d, err := duration("replica_lag", *in.ReplicaLag)
		if err != nil {
			return nil, err
		}
		r.SetReplicaLag(d)
	}
	if in.Threads != 0 {
		if err := r.SetThreads(in.Threads); err != nil {
			return nil, err
		}
	}
	if in.Paused != nil {
		r.PauseSender(*in.Paused)
	}
	return node{"paused": r.paused.Load(), "threads": r.threads.Load()}, nil
}

func (r *Registry) postClients(req *http.Request) (any, error) {
	var in Client
	if err := decode(req, &in); err != nil {
		return nil, err
	}
	return node{"id": in.ID}, r.AddClient(in)
}

func (r *Registry) postClient(req *http.Request) (any, error) {
	id := req.PathValue("client")
	in := struct {
		Scopes []string
		ORCID  orcid.ID
		Secret string
	}{}
	if err := decode(req, &in); err != nil {
		return nil, err
	}
	switch verb := req.PathValue("verb"); verb {
	case "deactivate", "reactivate":
		return node{}, r.DeactivateClient(id, verb == "deactivate")
	case "webhooks-off", "webhooks-on":
		return node{}, r.EnableWebhooks(id, verb == "webhooks-on")
	case "revoke-tokens":
		n, err := r.RevokeTokens(id)
		return node{"revoked": n}, err
	case "secret":
		return node{}, r.RotateSecret(Client{ID: id, Secret: secret.Text(in.Secret)})
	case "token":
		t, err := r.IssueToken(id, in.Scopes, in.ORCID)
		return node{"access_token": t}, err
	default:
		return nil, fmt.Errorf("what to do with a client (%q): %w", verb, ErrUnknown)
	}
}

func (r *Registry) postFault(req *http.Request) (any, error) {
	var in struct {
		Fault
		Delay string `json:"delay"`
	}
	if err := decode(req, &in); err != nil {
		return nil, err
	}
	if in.Delay != "" {
		d, err := duration("delay", in.Delay)
		if err != nil {
			return nil, err
		}
		in.Fault.Delay = d
	}
	id, err := r.InjectFault(in.Fault)
	return node{"id": id}, err
}

func (r *Registry) deleteFault(req *http.Request) (any, error) {
	id, err := strconv.Atoi(req.PathValue("fault"))
	if err != nil || id < 1 {
		return nil, fmt.Errorf("fault %q: %w", req.PathValue("fault"), ErrUnknown)
	}
	r.ClearFault(id)
	return node{}, nil
}
