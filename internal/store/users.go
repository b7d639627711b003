package store

type userScripts struct{}

func newUserScripts() userScripts { return userScripts{} }
