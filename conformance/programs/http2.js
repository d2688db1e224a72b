'use strict';
// An HTTP/2 server: in clear on PORT; with TLS, and HTTP/1.1 for those who want it, on TLS_PORT if that is set.
const fs = require('fs');
const http2 = require('http2');
const path = require('path');
const answer = require('./answer');

http2.createServer(answer).listen(process.env.PORT ?? 0, process.env.HOST);

if (process.env.TLS_PORT !== undefined) {
  http2.createSecureServer({
    allowHTTP1: true,
    key: fs.readFileSync(path.join(__dirname, 'test-only-key.pem')),
    cert: fs.readFileSync(path.join(__dirname, 'test-only-cert.pem')),
  }, answer).listen(process.env.TLS_PORT, process.env.HOST);
}
