'use strict';
// An HTTP server that takes MAX connections at a time, one by default.
const http = require('http');
const answer = require('./answer');

const server = http.createServer(answer);
server.maxConnections = Number(process.env.MAX ?? 1);
server.listen(process.env.PORT ?? 0, process.env.HOST);
