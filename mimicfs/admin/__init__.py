"""The administrator's view of a mount: status, metrics, logs, doctor.

access         the access log, and the requests that `mimicfs top` shows
bundle         `mimicfs doctor --bundle`: a file with everything that a bug report needs
controlsocket  the socket at which a mount answers `mimicfs status`, `set` and `log-level`
doctor         the checks of this machine for `mimicfs doctor`
figures        the figures of each part of a mount, as plain dicts
logs           where log lines go, how they look, and the log level
metrics        the figures for Prometheus
site           the server of the metrics and the web page
sources        the named calls that return the figures
troubles       what is wrong by the figures, and what to do about it
watch          starts and ends the socket, the metrics and the signals of a mount
watchedlog     the log file of a mount, which logrotate may move away
"""
