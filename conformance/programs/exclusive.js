'use strict';
// An HTTP server whose listener is this process's own, also in a cluster: the second worker gets EADDRINUSE.
const http = require('http');
const answer = require('./answer');

http.createServer(answer).listen({ port: Number(process.env.PORT ?? 0), host: process.env.HOST, exclusive: true });
