package script

// install fresh: the node becomes one that nodens was never on.
// install watch|term|log: the installer that stays, its end by SIGTERM, what it has written.
// install COMMAND ...: one of nodens-install's own.
func installVerb(l *Line) (string, error) {
	switch l.word(0) {
	case "fresh":
		return "", l.w.Uninstalled()
	case "watch":
		return "", l.w.StartInstaller()
	case "term":
		return "", l.w.StopInstaller()
	case "log":
		return l.w.InstallLog(), nil
	}
	return l.w.Install(l.args...)
}
