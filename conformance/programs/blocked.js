'use strict';
// An HTTP server that stands still on request: GET /block?ms=N keeps the event loop busy for N ms, then answers.
const http = require('http');
const answer = require('./answer');

http.createServer((req, res) => {
  const { pathname, searchParams } = new URL(req.url, 'http://host');
  if (pathname === '/block') {
    const end = Date.now() + Number(searchParams.get('ms'));
    while (Date.now() < end);
  }
  answer(req, res);
}).listen(process.env.PORT ?? 0, process.env.HOST);
