# The application is loaded before gunicorn says READY=1: one that cannot be loaded is not ready, and a reload refuses it.
preload_app = True
# How many there are is thead's affair: `instances`, `thead scale`.
workers = 1
# The default, `sync`, has one request at a time and keeps no connection. Threads do both.
worker_class = "gthread"
threads = 8
# All gunicorns of a user would share one file.
control_socket_disable = True
