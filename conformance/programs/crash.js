'use strict';
// An HTTP server that dies on request, without an answer: GET /throw, /exit?code=N, /signal?name=SIGKILL.
const http = require('http');
const answer = require('./answer');

http.createServer((req, res) => {
  const { pathname, searchParams } = new URL(req.url, 'http://host');
  if (pathname === '/throw') throw new Error('crash.js was asked to throw');
  if (pathname === '/exit') process.exit(Number(searchParams.get('code') ?? 0));
  if (pathname === '/signal') return void process.kill(process.pid, searchParams.get('name') ?? 'SIGKILL');
  answer(req, res);
}).listen(process.env.PORT ?? 0, process.env.HOST);
