package service

import (
	"context"
	"time"

	"dispatchd/internal/org"
	"dispatchd/internal/secret"
	"dispatchd/internal/store"
)

// TokenLife is how long an access token of an API client is good.
const TokenLife = 24 * time.Hour

// nobody is compared with when no client has that id, so that an answer takes
// as long as for a wrong secret.
var nobody = org.Organisation{API: org.API{ClientSecret: "$sha256$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}}

// APIClient returns whose API client it is that knows this secret. An
// organisation that is being removed has none any more.
func (s *Service) APIClient(clientID string, given secret.Text) (orgID string, ok bool) {
	o := &nobody
	for _, one := range s.o.Directory.All() {
		if clientID != "" && one.API.ClientID == clientID {
			o = one
		}
	}
	ok = store.CheckSecret(o.API.ClientSecret, given) && o.ID != ""
	if _, going := s.removing.Load(o.ID); !ok || going {
		return "", false
	}
	return o.ID, true
}

// NewToken makes an access token of the organisation's API client, good for
// TokenLife.
func (s *Service) NewToken(ctx context.Context, by By, orgID string) (secret.Text, error) {
	token, err := s.o.Store.NewAPIToken(ctx, orgID, TokenLife)
	if err != nil {
		return "", Explain("make an access token", err)
	}
	s.audit(by, "access token made", "org", orgID)
	return token, nil
}

// TokenOrganisation returns whose access token it is; "" when it is nobody's.
func (s *Service) TokenOrganisation(ctx context.Context, token secret.Text) (string, error) {
	orgID, err := s.o.Store.APITokenOrg(ctx, token)
	if err != nil {
		return "", Explain("look an access token up", err)
	}
	_, known := s.o.Directory.Organisation(orgID)
	if _, going := s.removing.Load(orgID); !known || going {
		return "", nil
	}
	return orgID, nil
}

// sameClient reports whether the API client stays who it is; a secret may be
// kept as its hash in one of them.
func sameClient(old, next org.API) bool {
	return old == next || old.ClientID == next.ClientID && store.CheckSecret(old.ClientSecret, next.ClientSecret)
}

// Applying returns the id of the job that makes the latest change of the
// organisation's switches so; "" when none is under way.
func (s *Service) Applying(ctx context.Context, orgID string) (string, error) {
	jobs, err := s.Jobs(ctx)
	if err != nil {
		return "", err
	}
	for _, j := range jobs {
		if j.Org == orgID && j.Kind == jobApply {
			return j.ID, nil
		}
	}
	return "", nil
}
