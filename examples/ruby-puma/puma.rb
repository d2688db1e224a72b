# The sockets that were passed in, and no others.
bind_to_activated_sockets "only"
# How many processes there are is thead's affair: `instances`, `thead scale`.
workers 0
threads 8, 8
# At SIGTERM puma closes the connections in its queue, though a request may just be on its way on one. Without a queue each
# connection has a thread and one request, and puma leaves only when all of them are answered. Behind a proxy that keeps requests
# until they are whole, as nginx does, nothing is lost by it.
queue_requests false
