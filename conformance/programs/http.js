'use strict';
// A plain HTTP server: on the path in SOCKET, else on PORT and HOST (any address by default).
const http = require('http');
const answer = require('./answer');

http.createServer(answer).listen(process.env.SOCKET ?? process.env.PORT ?? 0, process.env.HOST);
