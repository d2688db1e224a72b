'use strict';
// An HTTP server on the Unix socket SOCKET, open to everybody (mode 0777).
const http = require('http');
const answer = require('./answer');

http.createServer(answer).listen({ path: process.env.SOCKET, readableAll: true, writableAll: true });
