package store

type orgScripts struct{}

func newOrgScripts() orgScripts { return orgScripts{} }
