package web

import "dispatchd/internal/look"

func (p *Pages) settingsPage(v visit) (reply, error) {
	o, err := p.o.Service.Organisation(v.Context(), v.Org)
	if err != nil {
		return reply{}, err
	}
	return reply{name: "state", page: look.Page{Title: o.Name, Who: v.Who(), SignOut: "/sign-out"}}, nil
}
