'use strict';
// An HTTPS server with the self-signed certificate of this directory.
const fs = require('fs');
const https = require('https');
const path = require('path');
const answer = require('./answer');

https.createServer({
  key: fs.readFileSync(path.join(__dirname, 'test-only-key.pem')),
  cert: fs.readFileSync(path.join(__dirname, 'test-only-cert.pem')),
}, answer).listen(process.env.PORT ?? 0, process.env.HOST);
